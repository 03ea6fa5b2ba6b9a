"""The pictures of real things, cut out or whole, by what they show.

An album is a folder that `visualglm_lab.album_builder` wrote: `album.npy` [N, 128, 128, 4] and `manifest.jsonl`, one
line per picture (concept, source, licence, split). Knows nothing about scenes or packages.
"""

from __future__ import annotations

from dataclasses import dataclass

from visualglm.evaluation.scenes.kinds import Kind


@dataclass(frozen=True)
class AlbumEntry:
    """A picture and what it shows."""

    index: int
    kind: Kind
    cutout: bool
