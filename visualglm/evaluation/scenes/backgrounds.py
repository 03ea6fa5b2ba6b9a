"""Draw backgrounds: a tone, a drawn place, a pattern, or part of a photograph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from .kinds import RGB, Background

Size = tuple[int, int]
Ink = ImageDraw.ImageDraw


def draw_background(
    background: Background, tone: RGB, size: Size, rng: Generator, photo: Image.Image | None = None
) -> Image.Image:
    """Draw a canvas with the background; a background of texture `photo` shows a part of `photo`."""
    canvas = Image.new("RGB", size, tone)
    if background.texture == "photo":
        return _crop_photo(photo, size, rng) if photo else canvas
    if background.texture is not None:
        _TEXTURES[background.texture](ImageDraw.Draw(canvas), tone, size, rng)
    return canvas


def _crop_photo(photo: Image.Image, size: Size, rng: Generator) -> Image.Image:
    """Enlarge a crop of a quarter to a half of the photograph's side, so that no object is recognizable."""
    side = int(photo.width * rng.uniform(0.25, 0.5))
    left, top = (int(rng.integers(photo.width - side)) for _ in range(2))
    return photo.convert("RGB").resize(size, Image.Resampling.BILINEAR, (left, top, left + side, top + side))


def _shade(tone: RGB, by: int) -> RGB:
    red, green, blue = (min(255, max(0, c + by)) for c in tone)
    return red, green, blue


def _grass(ink: Ink, tone: RGB, size: Size, rng: Generator) -> None:
    """Draw upright blades."""
    for x, y, lean, by in zip(*rng.random((3, 90)), rng.integers(-28, 28, 90), strict=True):
        foot = (x * size[0], y * size[1])
        tip = (foot[0] + (lean - 0.5) * 0.04 * size[0], foot[1] - 0.06 * size[1])
        ink.line((foot, tip), fill=_shade(tone, int(by)), width=max(1, size[0] // 90))


def _sea(ink: Ink, tone: RGB, size: Size, rng: Generator) -> None:
    """Draw rows of waves."""
    for row in np.linspace(0.05, 0.95, 9):
        shift = rng.random() * 6
        t = np.linspace(0, 1, 25)
        y = (row + 0.012 * np.sin(26 * t + shift)) * size[1]
        line = list(zip((t * size[0]).tolist(), y.tolist(), strict=True))
        ink.line(line, fill=_shade(tone, 26), width=max(1, size[1] // 80))


def _night(ink: Ink, tone: RGB, size: Size, rng: Generator) -> None:
    """Draw stars."""
    for x, y, bright in rng.random((45, 3)):
        r = (0.003 + 0.003 * bright) * size[0]
        at = (x * size[0] - r, y * size[1] - r, x * size[0] + r, y * size[1] + r)
        ink.ellipse(at, fill=_shade(tone, round(90 + 110 * bright)))


def _sand(ink: Ink, tone: RGB, size: Size, rng: Generator) -> None:
    """Draw darker and lighter grains."""
    for x, y, by in zip(*rng.random((2, 160)), rng.integers(-35, 25, 160), strict=True):
        r = 0.006 * size[0]
        ink.ellipse((x * size[0] - r, y * size[1] - r, x * size[0] + r, y * size[1] + r), fill=_shade(tone, int(by)))


def _pattern(ink: Ink, tone: RGB, size: Size, rng: Generator) -> None:
    """Draw stripes, checks or dots in two similar tones."""
    other, step, form = _shade(tone, int(rng.choice([-40, 40]))), size[0] // int(rng.integers(6, 14)), rng.integers(3)
    for number, x in enumerate(range(0, size[0] + step, step)):
        if form == 0 and number % 2:
            ink.rectangle((x, 0, x + step, size[1]), fill=other)
        for row, y in enumerate(range(0, size[1] + step, step) if form else ()):
            if form == 1 and (number + row) % 2:
                ink.rectangle((x, y, x + step, y + step), fill=other)
            elif form == 2:
                ink.ellipse((x, y, x + step / 2, y + step / 2), fill=other)


_TEXTURES: dict[str, Callable[[Ink, RGB, Size, Generator], None]] = {
    "grass": _grass,
    "sea": _sea,
    "night": _night,
    "sand": _sand,
    "pattern": _pattern,
}
