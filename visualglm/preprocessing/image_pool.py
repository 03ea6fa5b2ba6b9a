"""Decode images in child processes with bounded resources.

    pool = ImagePool(workers=2, seconds=20)
    pool.decode(content, (224, 224))  # uint8 [H, W, 3], resized as by the image processor

A child (image_worker.py) is started for its first image and is reused. It is replaced after an image that crashed it or
exceeded the time limit. Where the system cannot limit a process (Windows), the time limit and the checks of
image_decoding.py remain.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import ImageError
from .image_worker import REPLY, REQUEST

INHERITED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""Environment variables that a child inherits."""


class EndedError(Exception):
    """The decoding was cancelled, or the pool is closed."""


class Ending:
    """Cancels the decoding of a request's images from any thread: running children are killed, and none is started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._running: set[_Child] = set()

    def end(self) -> None:
        """Kill the running children; later calls do nothing."""
        with self._lock:
            self._ended = True
            for child in self._running:
                child.kill()

    @contextlib.contextmanager
    def running(self, child: _Child) -> Iterator[None]:
        """Let `end` kill this child within the block.

        Raises:
            EndedError: `end` was called before.
        """
        with self._lock:
            if self._ended:
                raise EndedError("the decoding was ended")
            self._running.add(child)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(child)


class ImagePool:
    """Pool of `workers` processes, each with a limit of `seconds` per image."""

    def __init__(self, workers: int, seconds: float) -> None:
        self.seconds = seconds
        self._free: queue.LifoQueue[_Child] = queue.LifoQueue()
        for _ in range(workers):
            self._free.put(_Child())
        self._closing = Ending()
        self._timer: threading.Timer | None = None

    def decode(
        self, content: bytes, size: tuple[int, int], upstream: bool = False, ending: Ending | None = None
    ) -> np.ndarray:
        """Decode an image and resize it to `size` (height, width): uint8 [H, W, 3].

        Raises:
            ImageError: it is broken or of an unknown format, or takes too much memory or time.
            EndedError: `ending` or the pool ended it.
        """
        child = self._free.get()
        try:
            with self._closing.running(child), (ending or Ending()).running(child):
                worked, payload = child.decode(content, size, upstream, self.seconds)
        finally:
            self._free.put(child if child.alive else _Child())
        if not worked:
            raise ImageError(payload.decode())
        return np.frombuffer(payload, np.uint8).reshape(*size, 3)

    def finish_within(self, seconds: float) -> None:
        """Cancel all decoding after so many seconds."""
        self._timer = threading.Timer(seconds, self._closing.end)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        """Kill every process."""
        self._closing.end()
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait().kill()


class _Child:
    """One process, started for its first image; after `kill` it is not used again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        """True if it can decode another image."""
        return not self._killed and (self._process is None or self._process.poll() is None)

    def kill(self) -> None:
        """Kill the process; a waiting `decode` sees the end of its output."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def decode(self, content: bytes, size: tuple[int, int], upstream: bool, seconds: float) -> tuple[bool, bytes]:
        """Return success, and the pixels or the error message.

        Raises:
            ImageError: it took longer than `seconds`, or ended the process.
            EndedError: the process was killed from outside.
        """
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            return self._exchange(self._started(), REQUEST.pack(len(content), *size, seconds, upstream), content)
        except (OSError, EOFError) as error:
            name = f"The image ({len(content)} bytes)"
            if late.is_set():
                raise ImageError(f"{name} takes more than {seconds:g} s to decode. Save it as a plain JPEG.") from error
            if self._killed:
                raise EndedError("the decoding was ended") from error
            self.kill()
            raise ImageError(f"{name} ended its decoder: it is broken, or takes too much time or memory.") from error
        finally:
            timer.cancel()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._killed:
                raise EOFError
            if self._process is None:
                path = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
                environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "visualglm.preprocessing.image_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # libtiff prints warnings
                    env={**environment, "PYTHONPATH": os.pathsep.join(path), "OPENBLAS_NUM_THREADS": "1"},
                )
            return self._process

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], *parts: bytes) -> tuple[bool, bytes]:
        assert process.stdin is not None and process.stdout is not None
        for part in parts:
            process.stdin.write(part)
        process.stdin.flush()
        worked, length = REPLY.unpack(_read(process.stdout, REPLY.size))
        return worked, _read(process.stdout, length)


def _read(pipe: IO[bytes], length: int) -> bytes:
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    return content
