"""graphs: whatever compiles a step into a GPU's graph and replays it does so in one thread, always the same.

torch keeps captured graphs by thread: replayed from another one they fail, or write over each other's memory and say
nothing (pytorch issue 123177). Answers are made in a thread each, so those with a static cache are handed over. Knows
nothing about models.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

GRAPHS = ThreadPoolExecutor(max_workers=1, thread_name_prefix="graphs")
"""Its thread begins with the first call."""
HERE = threading.local()


def in_one_thread(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What `call` returns or raises, from the one thread; there at once, elsewhere when its turn has come."""
    if getattr(HERE, "is_the_one", False):
        return call(*arguments, **keywords)
    return GRAPHS.submit(_run, torch.is_inference_mode_enabled(), call, arguments, keywords).result()


def _run(inference: bool, call: Callable[..., Any], arguments: Any, keywords: Any) -> Any:
    HERE.is_the_one = True
    with torch.inference_mode(inference):
        return call(*arguments, **keywords)
