"""Single images of an album by split, with all their right names.

In contrast to `scenes.cutouts`, source and licence are kept, and images with several right names are included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from visualglm.evaluation.scenes.concepts import overlap
from visualglm.evaluation.scenes.kinds import Kind

from ..scenes.cutouts import open_album

NOT_TO_SHARE = "evaluation only"
EARLIER_TRAINED = ("tuxpaint-stamps-default", "gcompris-qt-data")
"""Sources of test photographs that trained the third version of the weights, from which later ones started."""
TOLD = ("index", "split", "source", "style", "licence", "file", "cutout", "cluster")


@dataclass(frozen=True)
class Shown:
    """One image; `kinds` are all kinds that it may correctly be named, the main one first."""

    index: int
    kinds: tuple[Kind, ...]
    split: str
    source: str
    style: str
    licence: str
    file: str
    cutout: bool
    cluster: int

    @property
    def shareable(self) -> bool:
        return NOT_TO_SHARE not in self.licence.lower()

    def is_called(self, kind: Kind | None) -> bool:
        """Return True if the manifest accepts the name."""
        return kind in self.kinds

    def is_near(self, kind: Kind | None) -> bool:
        """Return True if the name is right, or wider or narrower: bird for sparrow, or sparrow for bird."""
        return kind is not None and any(overlap(kind, other) for other in self.kinds)

    def is_akin(self, kind: Kind | None) -> bool:
        """Return True if the name has a right category."""
        return kind is not None and any(kind.category == other.category for other in self.kinds)


class AlbumImages:
    """The images of an album."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.pixels, rows = open_album(folder)
        self.rows = tuple(Shown(kinds=kinds, **{name: row[name] for name in TOLD}) for row, kinds in rows)

    def of(self, split: str, most: int | None = None) -> list[Shown]:
        """Return a split with one image per cluster of near-duplicates; at most `most`, evenly spaced."""
        rows = [row for row in self.rows if row.split == split]
        if split != "train":
            rows = list({row.cluster: row for row in reversed(rows)}.values())[::-1]
        if most is None or len(rows) <= most:
            return rows
        return [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int)]

    def never_trained(self, split: str, most: int | None = None) -> list[Shown]:
        """Return a split as `of` does, without photographs of sources that trained an earlier version."""
        return [row for row in self.of(split, most) if row.style != "photo" or row.source not in EARLIER_TRAINED]

    def image(self, row: Shown) -> Image.Image:
        """Return an RGB image: a cut-out on white, or the whole photograph."""
        image = Image.fromarray(np.asarray(self.pixels[row.index]), "RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")

    def images(self, rows: Iterable[Shown]) -> Iterator[Image.Image]:
        return (self.image(row) for row in rows)
