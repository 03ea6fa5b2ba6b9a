"""Another program's end of the line to `paired.py`; runs in that program's Python.

Says how many bytes a token reads, then answers each request on stdin with the seconds that it took. Knows nothing about
our package.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def serve(bytes_per_token: int, requests: dict[str, Callable[[], object]]) -> None:
    """Until stdin ends."""
    print(bytes_per_token, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        requests[line.strip()]()
        print(time.perf_counter() - began, flush=True)
