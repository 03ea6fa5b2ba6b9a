"""Run everything that compiles or replays a CUDA graph in one thread.

torch keeps captured graphs per thread: replayed from another one they fail, or silently overwrite each other's memory
(pytorch issue 123177). Each answer has a thread of its own, so answers with a static cache are handed to this one. It
is a daemon, so it does not block interpreter exit.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import torch

Work = tuple[Future[Any], Callable[[], Any]]


class GraphThread:
    """A daemon thread that starts with the first work it gets; a forked process starts its own."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the thread and its work, which a forked process does not have."""
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None
        self.waiting: SimpleQueue[Work] = SimpleQueue()

    def run(self, work: Callable[[], Any]) -> Any:
        """Return or raise what `work` does: at once in this thread, from another thread when its turn has come."""
        if threading.current_thread() is self.thread:
            return work()
        with self.lock:
            if self.thread is None:
                self.thread = threading.Thread(target=self._go_on, name="graphs", daemon=True)
                self.thread.start()
        done: Future[Any] = Future()
        self.waiting.put((done, work))
        return done.result()

    def _go_on(self) -> None:
        while True:
            done, work = self.waiting.get()
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)


GRAPH_THREAD = GraphThread()
os.register_at_fork(after_in_child=GRAPH_THREAD.reset)


def in_one_thread(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Run `call` in the graph thread, under the caller's inference mode and autocast, which are per thread."""
    inference = torch.is_inference_mode_enabled()
    casts = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]

    def work() -> Any:
        with torch.inference_mode(inference), contextlib.ExitStack() as stack:
            for kind, dtype in casts:
                stack.enter_context(torch.autocast(kind, dtype))
            return call(*arguments, **keywords)

    return GRAPH_THREAD.run(work)
