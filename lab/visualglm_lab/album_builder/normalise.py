"""Render image files as RGBA images of 128 x 128.

Cut-outs (images with a transparent background) are cropped to the visible part and centred with a margin. Drawings
on an even background are treated likewise but keep it. All other images are cropped to their central square. Alpha
is straight, and pixels with alpha 0 are black.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 128
MARGIN = 2
SVG_SIDE = 160
LEAST_SIDE = 24
VISIBLE = 8
"""Alpha up to this is not seen."""
EVEN = 12
"""The ground is even where nine tenths of the border differ by at most this from its median."""

CLEAR = (0, 0, 0, 0)

Box = tuple[int, int, int, int]
RGBA = tuple[int, int, int, int]


class UnsuitableImageError(ValueError):
    """The file is not an image, or shows too little; the message is the reason."""


@dataclass(frozen=True)
class Rendered:
    """`pixels` is uint8 [128, 128, 4]; `cutout` is True if the background is transparent."""

    pixels: np.ndarray
    cutout: bool


def rendered(content: bytes, name: str) -> Rendered:
    """Render an image file at the album's size.

    Raises:
        UnsuitableImageError: it cannot be opened or shows too little.
    """
    image = _opened(content, name)
    alpha = np.asarray(image)[..., 3]
    cutout = bool((alpha <= VISIBLE).any())
    square = _centred(image, _box(alpha > VISIBLE), CLEAR) if cutout else _opaque(image)
    pixels = np.array(square)
    pixels[pixels[..., 3] == 0] = 0
    if cutout and (pixels[..., 3] > VISIBLE).mean() < 0.01:
        raise UnsuitableImageError("almost nothing to see")
    if pixels[pixels[..., 3] > VISIBLE].std(axis=0).sum() == 0 and not cutout:
        raise UnsuitableImageError("one colour only")
    return Rendered(pixels, cutout)


def _opened(content: bytes, name: str) -> Image.Image:
    try:
        if name.lower().endswith((".svg", ".svgz")):
            content = _svg_drawn(content)
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise UnsuitableImageError(f"cannot be drawn ({type(error).__name__})") from error


def _svg_drawn(content: bytes) -> bytes:
    import resvg_py

    text = content.decode("utf-8")
    width, height = (SVG_SIDE, None) if _is_wide(text) else (None, SVG_SIDE)
    return bytes(resvg_py.svg_to_bytes(svg_string=text, width=width, height=height, skip_system_fonts=True))


def _is_wide(svg: str) -> bool:
    box = re.search(r"<svg[^>]*viewBox=[\"']\s*[-\d.e]+[\s,]+[-\d.e]+[\s,]+([\d.e]+)[\s,]+([\d.e]+)", svg)
    return box is None or float(box[1]) >= float(box[2])


def _box(seen: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if len(rows) == 0 or max(len(rows), len(columns)) < LEAST_SIDE:
        raise UnsuitableImageError("too small")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centred(image: Image.Image, box: Box, ground: RGBA) -> Image.Image:
    """Crop to the box and fit its longer side between the margins."""
    inner = SIDE - 2 * MARGIN
    scale = inner / max(box[2] - box[0], box[3] - box[1])
    size = [max(1, round((box[side + 2] - box[side]) * scale)) for side in (0, 1)]
    fitted = image.crop(box).resize((size[0], size[1]), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), ground)
    square.paste(fitted, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


def _opaque(image: Image.Image) -> Image.Image:
    image.putalpha(255)
    pixels = np.asarray(image)[..., :3].astype(int)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0)
    if np.percentile(np.abs(border - ground).max(axis=-1), 90) <= EVEN:
        seen = np.abs(pixels - ground).max(axis=-1) > 2 * EVEN
        red, green, blue = (int(value) for value in ground)
        return _centred(image, _box(seen), (red, green, blue, 255))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
