"""Child process that decodes images under hard limits.

`image_pool.py` starts it. Requests arrive on stdin, replies go to stdout; the end of stdin ends the process. A reply is
the image in RGB, resized as by the image processor, or a sentence that says why it cannot be decoded. Only Pillow and
numpy are imported.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

from PIL import AvifImagePlugin, Image

from ..errors import ImageError
from .image_decoding import decode_image, register_heif
from .image_limits import MEMORY_LIMIT

REQUEST = struct.Struct("<QIId?")
"""Bytes of the file, which follow; height and width; CPU seconds; whether to decode as upstream."""
REPLY = struct.Struct("<?Q")
"""Success; bytes of the pixels or of the error message, which follow."""

SLACK = 64 << 20
"""Bytes beyond `MEMORY_LIMIT` and the file: buffers of Python and of resizing."""


def main() -> None:
    """Answer requests until stdin ends."""
    requests, replies = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which closes stdin
        signal.signal(number, signal.SIG_IGN)
    Image.init()
    register_heif()  # before memory is measured: its libraries count towards the limit
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    limit = _limiter()
    while head := requests.read(REQUEST.size):
        length, height, width, seconds, upstream = REQUEST.unpack(head)
        limit(length, seconds)
        worked, payload = _decoded(requests.read(length), (width, height), upstream)
        replies.write(REPLY.pack(worked, len(payload)) + payload)
        replies.flush()


def _decoded(content: bytes, size: tuple[int, int], upstream: bool) -> tuple[bool, bytes]:
    try:
        image = decode_image(content, f"The image ({len(content)} bytes)", upstream)
        return True, image.resize(size, Image.Resampling.BICUBIC).tobytes()
    except ImageError as error:
        return False, str(error).encode("utf-8", "replace")


def _limiter() -> Callable[[int, float], None]:
    """Build the function that sets the limits of a request: bytes of its file, CPU seconds. Without limits: a no-op."""
    try:
        import resource
    except ImportError:
        return lambda length, seconds: None
    status = Path("/proc/self/statm")
    base = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else None
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def limit(length: int, seconds: float) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _soft(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1)
        if base is not None:
            _soft(resource.RLIMIT_AS, base + MEMORY_LIMIT + 2 * length + SLACK)

    def _soft(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))

    return limit


if __name__ == "__main__":
    main()
