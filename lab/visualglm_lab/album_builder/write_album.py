"""Write images and their metadata as album.npy and manifest.jsonl."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ALBUM, MANIFEST, SUMMARY = "album.npy", "manifest.jsonl", "summary.json"


@dataclass(frozen=True)
class Row:
    """One image of the album.

    Attributes:
        sha256: hash of the source file's bytes.
        cutout: True if the background is transparent.
        also: other concepts that it shows, or other right names (photos only).
    """

    index: int
    concept: str
    source: str
    package: str
    version: str
    file: str
    licence: str
    sha256: str
    style: str
    cutout: bool
    cluster: int
    split: str
    also: tuple[str, ...] = ()


def write_album(folder: Path, images: Sequence[np.ndarray], rows: Iterable[Row]) -> None:
    """Write both files; `images` are uint8 [128, 128, 4] in the order of `rows`.

    An existing album is replaced, not overwritten, so that processes which have it open can continue to read it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(images), *images[0].shape)
    fresh = folder / f"{ALBUM}.part"
    album = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.uint8, shape=shape)
    for index, pixels in enumerate(images):
        album[index] = pixels
    album.flush()
    fresh.replace(folder / ALBUM)
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in rows]
    (folder / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
