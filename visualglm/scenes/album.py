"""scenes/album: the pictures of real things, cut out or whole, by what they show.

An album is a folder that `visualglm.training.pictures` wrote: `album.npy` [N, 128, 128, 4] and `manifest.jsonl`, one
line per picture (concept, source, licence, split). Knows nothing about scenes or packages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from ..errors import UsageError
from .concepts import by_key
from .vocabulary import COLOURS, Colour, Kind

CLEAR = 0.72  # a thing has a colour when this share of its pixels has it
_HUES = ((12, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (262, "blue"), (300, "purple"), (340, "pink"))


@dataclass(frozen=True)
class Entry:
    """A picture and what it shows."""

    index: int
    kind: Kind
    cutout: bool


class Album:
    """The pictures of some splits; `by_kind` are the cut-outs by what they show, `photos` the whole pictures."""

    def __init__(self, folder: str | Path, splits: tuple[str, ...] = ("train",)) -> None:
        self.pixels, rows = opened(folder)
        self.entries = tuple(
            Entry(row["index"], kinds[0], row["cutout"]) for row, kinds in rows if row["split"] in splits
        )
        self.by_kind: dict[Kind, list[Entry]] = {}
        for entry in self.entries:
            if entry.cutout:
                self.by_kind.setdefault(entry.kind, []).append(entry)
        self.kinds = tuple(self.by_kind)
        self.photos = tuple(entry for entry in self.entries if not entry.cutout)

    def picture(self, index: int) -> Image.Image:
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


def opened(folder: str | Path) -> tuple[NDArray[np.uint8], Iterator[tuple[dict[str, Any], tuple[Kind, ...]]]]:
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


def dominant_colour(rgba: NDArray[np.uint8]) -> Colour | None:
    """[H, W, 4] -> the colour of at least `CLEAR` of the opaque pixels, outlines (near black) not counted."""
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
    if counts[best] < CLEAR * len(names):
        return None
    return next((colour for colour in COLOURS if colour.key == values[best]), None)


def colour_names(pixels: NDArray[np.uint8]) -> NDArray[np.str_]:
    """[N, 3] RGB -> the name of each pixel's colour, `grey` among them, by hue, saturation and value."""
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
    """Degrees, 0 for grey."""
    red, green, blue = rgb.T
    safe = np.maximum(chroma, 1e-6)
    sector = np.select(
        [value == red, value == green], [(green - blue) / safe % 6, (blue - red) / safe + 2], (red - green) / safe + 4
    )
    hue: NDArray[np.float64] = np.where(chroma > 0, 60 * sector, 0.0)
    return hue


def relit(picture: Image.Image, shift: int, saturation: float, light: float) -> Image.Image:
    """RGBA in other light: hue turned by `shift` (of 256), saturation and brightness multiplied."""
    if (shift, saturation, light) == (0, 1.0, 1.0):
        return picture
    alpha, rgb = picture.getchannel("A"), picture.convert("RGB")
    if shift:
        hue, chroma, value = rgb.convert("HSV").split()
        turned = hue.point(lambda level: (level + shift) % 256)
        rgb = Image.merge("HSV", (turned, chroma, value)).convert("RGB")
    rgb = ImageEnhance.Brightness(ImageEnhance.Color(rgb).enhance(saturation)).enhance(light)
    rgb.putalpha(alpha)
    return rgb
