"""Read an album of real images, cut out or whole.

An album is a folder written by `visualglm_lab.album_builder`: `album.npy` [N, 128, 128, 4] and `manifest.jsonl`, one
line per image (concept, source, licence, split).
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
    """The images of some splits: cut-outs by kind (`by_kind`) and whole photographs (`photos`)."""

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
        """Return an image, [128, 128] RGBA."""
        return Image.fromarray(np.asarray(self.pixels[index]), "RGBA")

    @lru_cache(maxsize=100_000)  # noqa: B019  (an album lives as long as its process)
    def colour(self, index: int) -> Colour | None:
        """Return the dominant colour of a cut-out, or None if it has none."""
        return dominant_colour(np.asarray(self.pixels[index, ::4, ::4]))

    @lru_cache(maxsize=100_000)  # noqa: B019
    def tone(self, index: int) -> tuple[int, int, int]:
        """Return the mean RGB of the opaque pixels."""
        pixels = np.asarray(self.pixels[index, ::4, ::4]).reshape(-1, 4).astype(np.float64)
        opacity = pixels[:, 3:] + 1e-3  # thin drawings may have no opaque pixel among these
        red, green, blue = ((pixels[:, :3] * opacity).sum(axis=0) / opacity.sum()).round().astype(int).tolist()
        return red, green, blue


def open_album(folder: str | Path) -> tuple[NDArray[np.uint8], Iterator[tuple[dict[str, Any], tuple[Kind, ...]]]]:
    """Open an album: its images, memory-mapped, and its manifest's lines with all right kinds, best first.

    Lines of unknown concepts are skipped.

    Raises:
        UsageError: the folder has no album.
    """
    missing = [name for name in ("album.npy", "manifest.jsonl") if not (Path(folder) / name).exists()]
    if missing:
        raise UsageError(f"{folder} has no {missing[0]}. Build the images with `make mini-data`, or give their folder.")
    return np.load(Path(folder) / "album.npy", mmap_mode="r"), _read(Path(folder) / "manifest.jsonl")


def _read(manifest: Path) -> Iterator[tuple[dict[str, Any], tuple[Kind, ...]]]:
    with manifest.open(encoding="utf-8") as lines:
        for line in lines:
            row: dict[str, Any] = json.loads(line)
            keys = (*row["concept"].split(";"), *row.get("also", ()))
            kinds = tuple(dict.fromkeys(by_key()[key] for key in keys if key in by_key()))
            if kinds:
                yield row, kinds
