"""scenes/compose: seed -> Scene (the truth) -> picture, and what covers every patch.

`scene_of(seed)` says what is where, with every choice made from the seed; `picture_of(scene)` draws it;
`patch_labels(scene, grid)` says what covers each patch. Knows nothing about questions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .draw import draw_kind, stamp_kind
from .vocabulary import BACKGROUNDS, COLOURS, KINDS, RGB, ZONES, Background, Colour, Kind, Zone

_MARGIN = 0.03  # centres keep this far from the lines between zones, so that every zone is beyond doubt
_LABEL_SIZE = 112


@dataclass(frozen=True)
class Item:
    """One object: `x`, `y` is its centre, `size` its half-extent, all as shares of the picture's side."""

    kind: Kind
    colour: Colour
    tone: RGB
    x: float
    y: float
    size: float
    angle: float = 0.0
    outline: RGB | None = None

    @property
    def zone(self) -> Zone:
        return _zone(self.x, self.y)


def _zone(x: float, y: float) -> Zone:
    column, row = (int(v >= 0.36) + int(v >= 0.64) for v in (x, y))
    return ZONES[3 * row + column]


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `items` are in reading order (zone by zone)."""

    seed: int
    background: Background
    tone: RGB
    items: tuple[Item, ...]
    width: int
    height: int


@dataclass(frozen=True)
class PatchLabels:
    """Per patch, row by row: `kinds`, `colours` and `zones` of its object [patches]; `outline` [patches, pixels of
    every second row and column], True inside an object; `offsets` [patches, 3], see `_offsets`."""

    kinds: NDArray[np.int64]
    colours: NDArray[np.int64]
    zones: NDArray[np.int64]
    outline: NDArray[np.bool_]
    offsets: NDArray[np.float32]


def scene_of(seed: int, most: int = 4, least: int = 1, on_white: bool = False) -> Scene:
    """The scene of a seed, with `least` to `most` objects that do not touch, each in a zone of its own.

    `on_white` is for the first steps of training: outlines are learned sooner where the ground is always the same.
    """
    rng = np.random.default_rng(seed)
    white = on_white or rng.random() < 0.15  # the commonest ground
    background = BACKGROUNDS[0 if white else rng.integers(len(BACKGROUNDS))]
    tone = _tone(rng, background.tones, spread=6)
    items: list[Item] = []
    for _ in range(int(rng.integers(least, most + 1))):
        item = _place(rng, tone, items, crowded=most > 1)
        items += [item] if item else []
    items.sort(key=lambda item: (item.zone.row, item.zone.column))
    width, height = _native_size(rng)
    return Scene(seed, background, tone, tuple(items), width, height)


def picture_of(scene: Scene, size: tuple[int, int] | None = None) -> Image.Image:
    """Draws the scene at its native size (or `size`), supersampled twice; the same pixels every time."""
    width, height = size or (scene.width, scene.height)
    rng = np.random.default_rng(scene.seed + 1)
    canvas = _ground(scene, (2 * width, 2 * height), rng)
    ink = ImageDraw.Draw(canvas)
    for item in scene.items:
        centre, half = _extent(item, 2 * width, 2 * height)
        draw_kind(ink, item.kind.key, item.tone, centre, half, item.angle, item.outline)
    picture = canvas.resize((width, height), Image.Resampling.BOX)
    return _weathered(picture, rng) if size is None else picture


def patch_labels(scene: Scene, grid: int) -> PatchLabels:
    """What covers each patch of a `grid` x `grid` raster; 0 where no object covers a fifth of it."""
    owners = np.asarray(_owners(scene))
    side = _LABEL_SIZE // grid
    blocks = owners[: side * grid, : side * grid].reshape(grid, side, grid, side).transpose(0, 2, 1, 3)
    pixels = blocks.reshape(grid * grid, -1)
    cover = np.stack([(pixels == n).mean(axis=1) for n in range(1, len(scene.items) + 1)], axis=1)
    owner = np.where(cover.max(axis=1) >= 0.2, cover.argmax(axis=1) + 1, 0)
    kinds = np.array([0, *(1 + KINDS.index(item.kind) for item in scene.items)])
    colours = np.array([0, *(1 + COLOURS.index(item.colour) for item in scene.items)])
    outline = blocks[:, :, ::2, ::2].reshape(grid * grid, -1) > 0
    zones = np.array([0, *(1 + ZONES.index(item.zone) for item in scene.items)])
    return PatchLabels(kinds[owner], colours[owner], zones[owner], outline, _offsets(scene, owner, grid))


def _owners(scene: Scene) -> Image.Image:
    """The number of the object at every pixel of a small raster, from 1; 0 where there is none."""
    owners = Image.new("L", (_LABEL_SIZE, _LABEL_SIZE))
    ink = ImageDraw.Draw(owners)
    for number, item in enumerate(scene.items, start=1):
        stamp_kind(ink, item.kind.key, number, *_extent(item, _LABEL_SIZE, _LABEL_SIZE, scene), item.angle)
    return owners


def _offsets(scene: Scene, owner: NDArray[np.int64], grid: int) -> NDArray[np.float32]:
    """[grid * grid, 3]: the way from the patch to its object's centre in patches, and the object's half-extent."""
    place = (np.arange(grid * grid) % grid + 0.5, np.arange(grid * grid) // grid + 0.5)
    target = np.array([(0, 0, 0), *((item.x * grid, item.y * grid, item.size * grid) for item in scene.items)])[owner]
    there = (owner > 0)[:, None]
    return (there * (target - np.stack([*place, np.zeros(grid * grid)], axis=1))).astype(np.float32)


def zone_labels(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(kind, colour) per zone, each [9] in reading order; 0 where the zone is empty."""
    kinds, colours = np.zeros((2, len(ZONES)), dtype=np.int64)
    for item in scene.items:
        kinds[ZONES.index(item.zone)] = 1 + KINDS.index(item.kind)
        colours[ZONES.index(item.zone)] = 1 + COLOURS.index(item.colour)
    return kinds, colours


def _place(rng: Generator, ground: RGB, others: list[Item], crowded: bool) -> Item | None:
    """A new object away from the others and seen against the ground; None where there is no room."""
    spot = _spot(rng, others, crowded)
    for _ in range(40 if spot else 0):
        colour = COLOURS[rng.integers(len(COLOURS))]
        tone = _tone(rng, colour.tones, spread=12)
        kind, colour, tone = _twin(rng, others) or (KINDS[rng.integers(len(KINDS))], colour, tone)
        if spot and math.dist(tone, ground) > 90:
            return Item(kind, colour, tone, *spot, _angle(rng), _outline(rng, tone, ground))
    return None


def _spot(rng: Generator, others: list[Item], crowded: bool) -> tuple[float, float, float] | None:
    """(x, y, size) of a place that is free and beyond doubt in one zone; the last of sixty tries ask for less room."""
    smallest, largest = (0.10 if crowded else 0.14), (0.19 if others else 0.30)
    for attempt, (a, b, c) in enumerate(rng.random((60, 3)).tolist()):
        size = smallest + a * ((largest if attempt < 30 else 0.13) - smallest)
        x, y = (size + 0.01 + share * (0.98 - 2 * size) for share in (b, c))
        if _clear(x, y, size, others):
            return x, y, size
    return None


def _twin(rng: Generator, others: list[Item]) -> tuple[Kind, Colour, RGB] | None:
    """Now and then the kind of an object already there, half of the time in its colour too: so counts exceed one."""
    if not others or rng.random() > 0.3:
        return None
    other = others[rng.integers(len(others))]
    if rng.random() < 0.5:
        return other.kind, other.colour, other.tone
    colour = COLOURS[rng.integers(len(COLOURS))]
    return other.kind, colour, _tone(rng, colour.tones, spread=12)


def _clear(x: float, y: float, size: float, others: list[Item]) -> bool:
    if any(abs(v - line) < _MARGIN for v in (x, y) for line in (0.36, 0.64)):
        return False
    zone = _zone(x, y)
    return all(
        max(abs(x - other.x), abs(y - other.y)) > size + other.size + 0.02 and zone != other.zone for other in others
    )


def _angle(rng: Generator) -> float:
    return float(rng.uniform(-0.2, 0.2)) if rng.random() < 0.4 else 0.0


def _outline(rng: Generator, tone: RGB, ground: RGB) -> RGB | None:
    """A dark line around every fifth object, unless object or ground are dark themselves."""
    return (20, 20, 20) if rng.random() < 0.2 and min(sum(tone), sum(ground)) > 240 else None


def _tone(rng: Generator, tones: tuple[RGB, ...], spread: int) -> RGB:
    tone = zip(tones[rng.integers(len(tones))], rng.integers(-spread, spread + 1, 3).tolist(), strict=True)
    red, green, blue = (min(255, max(0, level + change)) for level, change in tone)
    return red, green, blue


def _native_size(rng: Generator) -> tuple[int, int]:
    """Most pictures are square, 112 to 300 px; a quarter is landscape or portrait."""
    side = (112, 112, 128, 160, 224, 300)[rng.integers(6)]
    stretch = float(rng.uniform(1.1, 1.4)) if rng.random() < 0.25 else 1.0
    return (round(side * stretch), side) if rng.random() < 0.7 else (side, round(side * stretch))


def _extent(
    item: Item, width: int, height: int, native: Scene | None = None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre and half-extents in pixels of a canvas; circles stay round in the native picture."""
    natural_width, natural_height = (native.width, native.height) if native else (width, height)
    side = min(natural_width, natural_height)
    half = (item.size * side * width / natural_width, item.size * side * height / natural_height)
    return (item.x * width, item.y * height), half


def _ground(scene: Scene, size: tuple[int, int], rng: Generator) -> Image.Image:
    texture = scene.background.texture
    canvas = Image.new("RGB", size, scene.tone)
    if texture is None:
        return canvas
    ink = ImageDraw.Draw(canvas)
    {"grass": _grass, "sea": _sea, "night": _night, "sand": _sand}[texture](ink, scene.tone, size, rng)
    return canvas


def _shade(tone: RGB, by: int) -> RGB:
    red, green, blue = (min(255, max(0, c + by)) for c in tone)
    return red, green, blue


def _grass(ink: ImageDraw.ImageDraw, tone: RGB, size: tuple[int, int], rng: Generator) -> None:
    """Upright blades all over."""
    for x, y, lean, by in zip(*rng.random((3, 90)), rng.integers(-28, 28, 90), strict=True):
        foot = (x * size[0], y * size[1])
        tip = (foot[0] + (lean - 0.5) * 0.04 * size[0], foot[1] - 0.06 * size[1])
        ink.line((foot, tip), fill=_shade(tone, int(by)), width=max(1, size[0] // 90))


def _sea(ink: ImageDraw.ImageDraw, tone: RGB, size: tuple[int, int], rng: Generator) -> None:
    """Rows of waves."""
    for row in np.linspace(0.05, 0.95, 9):
        shift = rng.random() * 6
        t = np.linspace(0, 1, 25)
        y = (row + 0.012 * np.sin(26 * t + shift)) * size[1]
        line = list(zip((t * size[0]).tolist(), y.tolist(), strict=True))
        ink.line(line, fill=_shade(tone, 26), width=max(1, size[1] // 80))


def _night(ink: ImageDraw.ImageDraw, tone: RGB, size: tuple[int, int], rng: Generator) -> None:
    """Small points of light."""
    for x, y, bright in rng.random((45, 3)):
        r = (0.003 + 0.003 * bright) * size[0]
        at = (x * size[0] - r, y * size[1] - r, x * size[0] + r, y * size[1] + r)
        ink.ellipse(at, fill=_shade(tone, round(90 + 110 * bright)))


def _sand(ink: ImageDraw.ImageDraw, tone: RGB, size: tuple[int, int], rng: Generator) -> None:
    """Grains, darker and lighter."""
    for x, y, by in zip(*rng.random((2, 160)), rng.integers(-35, 25, 160), strict=True):
        r = 0.006 * size[0]
        ink.ellipse((x * size[0] - r, y * size[1] - r, x * size[0] + r, y * size[1] + r), fill=_shade(tone, int(by)))


def _weathered(picture: Image.Image, rng: Generator) -> Image.Image:
    """A little blur or noise now and then, as pictures of unknown origin have it."""
    chance = rng.random()
    if chance < 0.1:
        return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9))))
    if chance < 0.25:
        grain = rng.normal(0, rng.uniform(2, 7), (picture.height, picture.width, 1))
        return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))
    return picture
