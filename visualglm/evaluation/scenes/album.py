"""Protocol of an album: images to paste into drawn scenes.

An album is optional; without one, every scene is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from .kinds import RGB, Colour, Kind


@dataclass(frozen=True)
class AlbumEntry:
    """One image of an album and the kind that it shows; `cutout`: its background is transparent."""

    index: int
    kind: Kind
    cutout: bool


class Album(Protocol):
    """Images by index: cut-outs of single things (`by_kind`) and whole photographs (`photos`)."""

    @property
    def photos(self) -> tuple[AlbumEntry, ...]: ...

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds with cut-outs: the keys of `by_kind`, in their order."""
        ...

    @property
    def by_kind(self) -> dict[Kind, list[AlbumEntry]]: ...

    def image(self, index: int) -> Image.Image:
        """Return an image in RGBA."""
        ...

    def colour(self, index: int) -> Colour | None:
        """Return the dominant colour of a cut-out, or None if it has none."""
        ...

    def tone(self, index: int) -> RGB:
        """Return the mean RGB of an image's opaque pixels."""
        ...
