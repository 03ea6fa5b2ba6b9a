"""Shrink the images of the docs."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def shrink(file: Path) -> None:
    """Write an image again with a palette of 256 colours."""
    with Image.open(file) as image:
        smaller = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    smaller.save(file, optimize=True)
