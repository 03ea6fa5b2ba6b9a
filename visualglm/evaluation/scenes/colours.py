"""Colours of pasted images: dominant colour, and changes of light.

Pixels are uint8, RGB or RGBA.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from .kinds import COLOURS, Colour

DOMINANT_FRACTION = 0.72  # of an object's pixels that must have a colour
_HUES = ((12, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (262, "blue"), (300, "purple"), (340, "pink"))


def dominant_colour(rgba: NDArray[np.uint8]) -> Colour | None:
    """[H, W, 4] -> the colour of at least `DOMINANT_FRACTION` of the opaque pixels, without near-black outlines."""
    pixels = rgba.reshape(-1, 4)
    pixels = pixels[pixels[:, 3] > 160][:, :3]
    if len(pixels) < 20:
        return None
    names = colour_names(pixels)
    outlines = (names == "black").mean()
    if outlines < 0.35:
        names = names[names != "black"]
    values, counts = np.unique(names, return_counts=True)
    best = counts.argmax()
    if counts[best] < DOMINANT_FRACTION * len(names):
        return None
    return next((colour for colour in COLOURS if colour.key == values[best]), None)


def colour_names(pixels: NDArray[np.uint8]) -> NDArray[np.str_]:
    """[N, 3] RGB -> the colour name of each pixel (including `grey`), by hue, saturation and value."""
    rgb = pixels.astype(np.float64) / 255
    value, low = rgb.max(axis=1), rgb.min(axis=1)
    chroma = value - low
    saturation = chroma / np.maximum(value, 1e-6)
    hue = _hue(rgb, value, chroma)
    names = np.full(len(rgb), "red", dtype="<U8")
    start = 0
    for end, name in _HUES:
        names[(hue >= start) & (hue < end)] = name
        start = end
    names[np.isin(names, ("orange", "red")) & (value < 0.68)] = "brown"
    names[(names == "brown") & (hue < 12) & (saturation > 0.75) & (value > 0.4)] = "red"
    names[((names == "red") | (names == "purple")) & (saturation < 0.55) & (value > 0.8)] = "pink"
    names[(names == "orange") & (saturation < 0.35)] = "grey"
    grey = saturation < 0.18
    names[grey] = "grey"
    names[grey & (value > 0.88)] = "white"
    names[(value < 0.22) | (grey & (value < 0.3))] = "black"
    return names


def _hue(rgb: NDArray[np.float64], value: NDArray[np.float64], chroma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the hue in degrees; 0 for grey."""
    red, green, blue = rgb.T
    safe = np.maximum(chroma, 1e-6)
    sector = np.select(
        [value == red, value == green], [(green - blue) / safe % 6, (blue - red) / safe + 2], (red - green) / safe + 4
    )
    hue: NDArray[np.float64] = np.where(chroma > 0, 60 * sector, 0.0)
    return hue


def relight(image: Image.Image, shift: int, saturation: float, light: float) -> Image.Image:
    """Change the light of an RGBA image: hue rotated by `shift` (of 256), saturation and brightness multiplied."""
    if (shift, saturation, light) == (0, 1.0, 1.0):
        return image
    alpha, rgb = image.getchannel("A"), image.convert("RGB")
    if shift:
        hue, chroma, value = rgb.convert("HSV").split()
        turned = hue.point(lambda level: (level + shift) % 256)
        rgb = Image.merge("HSV", (turned, chroma, value)).convert("RGB")
    rgb = ImageEnhance.Brightness(ImageEnhance.Color(rgb).enhance(saturation)).enhance(light)
    rgb.putalpha(alpha)
    return rgb
