"""Limits of a server's queue, batches, images and times. Imports nothing heavy, for `--help`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineLimits:
    """Limits of an engine.

    `time_limit` in seconds counts from the start of decoding a request's images. `remembered` images keep their
    embeddings. `decoders` processes decode images, each for at most `decode_seconds` and within the memory limit of
    preprocessing/image_limits.py.
    """

    max_queue: int = 64
    max_batch: int = 8
    time_limit: float = 600.0
    remembered: int = 256
    decoders: int = 2
    decode_seconds: float = 20.0
