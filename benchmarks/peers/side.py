"""The other program's end of the connection to `paired.py`; runs in that program's Python.

It reports how many bytes a token reads, then answers each request on stdin with the seconds that it took. It does not
import our package.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def serve(bytes_per_token: int, requests: dict[str, Callable[..., object]]) -> None:
    """Answer requests until stdin ends: a name, and sometimes a number, which is passed as text."""
    print(bytes_per_token, flush=True)
    for line in sys.stdin:
        name, *number = line.split()
        began = time.perf_counter()
        requests[name](*number)
        print(time.perf_counter() - began, flush=True)
