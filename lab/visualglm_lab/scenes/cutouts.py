"""The pictures of real things, cut out or whole, by what they show.

An album is a folder that `visualglm_lab.album_builder` wrote: `album.npy` [N, 128, 128, 4] and `manifest.jsonl`, one
line per picture (concept, source, licence, split). Knows nothing about scenes or packages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visualglm.errors import UsageError
from visualglm.evaluation.scenes.album import AlbumEntry
from visualglm.evaluation.scenes.colours import dominant_colour
from visualglm.evaluation.scenes.concepts import by_key
from visualglm.evaluation.scenes.kinds import Colour, Kind


class Album:
    """The pictures of some splits; `by_kind` are the cut-outs by what they show, `photos` the whole pictures."""

    def __init__(self, folder: str | Path, splits: tuple[str, ...] = ("train",)) -> None:
        self.pixels, rows = open_album(folder)
        self.entries = tuple(
            AlbumEntry(row["index"], kinds[0], row["cutout"]) for row, kinds in rows if row["split"] in splits
        )
        self.by_kind: dict[Kind, list[AlbumEntry]] = {}
        for entry in self.entries:
            if entry.cutout:
                self.by_kind.setdefault(entry.kind, []).append(entry)
        self.kinds = tuple(self.by_kind)
        self.photos = tuple(entry for entry in self.entries if not entry.cutout)

    def image(self, index: int) -> Image.Image:
        """[128, 128] RGBA."""
        return Image.fromarray(np.asarray(self.pixels[index]), "RGBA")

    @lru_cache(maxsize=100_000)  # noqa: B019  (an album lives as long as its process)
    def colour(self, index: int) -> Colour | None:
        """The one colour that a cut-out has, or None where it has several."""
        return dominant_colour(np.asarray(self.pixels[index, ::4, ::4]))

    @lru_cache(maxsize=100_000)  # noqa: B019
    def tone(self, index: int) -> tuple[int, int, int]:
        """The mean tone of what is opaque."""
        pixels = np.asarray(self.pixels[index, ::4, ::4]).reshape(-1, 4).astype(np.float64)
        opacity = pixels[:, 3:] + 1e-3  # thin drawings may have no opaque pixel among these
        red, green, blue = ((pixels[:, :3] * opacity).sum(axis=0) / opacity.sum()).round().astype(int).tolist()
        return red, green, blue


def open_album(folder: str | Path) -> tuple[NDArray[np.uint8], Iterator[tuple[dict[str, Any], tuple[Kind, ...]]]]:
    """An album's pictures, mapped from disk, and the lines of its manifest, each with all kinds that the picture may
    truly be called, the best first; lines of unknown concepts are left out.

    Raises:
        UsageError: the folder holds no album.
    """
    missing = [name for name in ("album.npy", "manifest.jsonl") if not (Path(folder) / name).exists()]
    if missing:
        raise UsageError(
            f"{folder} holds no {missing[0]}: build the pictures with `make mini-data`, or name their folder."
        )
    return np.load(Path(folder) / "album.npy", mmap_mode="r"), _read(Path(folder) / "manifest.jsonl")


def _read(manifest: Path) -> Iterator[tuple[dict[str, Any], tuple[Kind, ...]]]:
    with manifest.open(encoding="utf-8") as lines:
        for line in lines:
            row: dict[str, Any] = json.loads(line)
            keys = (*row["concept"].split(";"), *row.get("also", ()))
            kinds = tuple(dict.fromkeys(by_key()[key] for key in keys if key in by_key()))
            if kinds:
                yield row, kinds
