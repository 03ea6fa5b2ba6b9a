"""serving/limits: how much one server takes at once, and for how long. Light, so that `--help` is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineLimits:
    """`time_limit` in seconds counts from where a request joins the queue, its pictures decoded; `remembered` pictures
    keep their vectors; `decoders` pictures are decoded at once, each of which may take hundreds of megabytes."""

    max_queue: int = 64
    max_batch: int = 8
    time_limit: float = 600.0
    remembered: int = 256
    decoders: int = 2
