"""Generate scenes from seeds: objects, positions, colours, background.

Objects are drawn kinds, letters, and, with an album, cut-outs of real images. All choices derive from the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.random import Generator

from .album import Album, AlbumEntry
from .colours import dominant_colour, relight
from .concepts import glyphs, kinds
from .kinds import BACKGROUNDS, COLOURS, KINDS, RGB, ZONES, Background, Colour, Kind, Zone

_MARGIN = 0.03  # minimum distance of centres from zone borders, so that zones are unambiguous
_SHAPES = tuple(kind for kind in KINDS if kind.category == "shape")
_FRAMES = tuple((kind, inner) for kind in KINDS for inner in [{"circle": 0.6, "square": 0.68}.get(kind.key)] if inner)


@dataclass(frozen=True)
class Frame:
    """A shape around an object; the object has `inner` times its size."""

    kind: Kind
    colour: Colour
    tone: RGB
    inner: float


@dataclass(frozen=True)
class SceneItem:
    """One object: centre (`x`, `y`) and half-extent `size` as fractions of the image's side.

    `image` is the index of the album's image to paste, None for drawn kinds. `colour` is None if the object has several
    colours. A `whole` image fills the scene. `shift`, `saturation`, `light` and `flip` modify a pasted image.
    """

    kind: Kind
    colour: Colour | None
    tone: RGB
    x: float
    y: float
    size: float
    angle: float = 0.0
    outline: RGB | None = None
    image: int | None = None
    whole: bool = False
    flip: bool = False
    shift: int = 0
    saturation: float = 1.0
    light: float = 1.0
    frame: Frame | None = None

    @property
    def zone(self) -> Zone:
        return _zone(self.x, self.y)

    @property
    def drawn(self) -> bool:
        """True if the object is drawn, False if an image is pasted."""
        return self.image is None


def _zone(x: float, y: float) -> Zone:
    column, row = (int(v >= 0.36) + int(v >= 0.64) for v in (x, y))
    return ZONES[3 * row + column]


@dataclass(frozen=True)
class Scene:
    """The content of an image; `items` are in reading order (zone by zone)."""

    seed: int
    background: Background
    tone: RGB
    items: tuple[SceneItem, ...]
    width: int
    height: int
    album: Album | None = field(default=None, compare=False)
    background_image: int | None = None

    @property
    def frames(self) -> tuple[Frame, ...]:
        return tuple(item.frame for item in self.items if item.frame)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of all objects and of their frames."""
        return (*(item.kind for item in self.items), *(frame.kind for frame in self.frames))


@dataclass(frozen=True)
class SceneMix:
    """Probabilities of the features of scenes.

    Attributes:
        pasted: an object is a pasted image.
        letters: an object is a letter or digit.
        large: the scene has one large object.
        frames: an object is inside a shape.
        themes: all objects but one have the same category.
        relit: the light of a pasted image is changed.
        anything: allow kinds that cannot be drawn, for text-only scenes.
    """

    pasted: float = 0.0
    letters: float = 0.0
    large: float = 0.0
    frames: float = 0.0
    themes: float = 0.0
    relit: float = 0.0
    anything: bool = False


DRAWN = SceneMix()


def scene_of(
    seed: int,
    most: int = 4,
    least: int = 1,
    on_white: bool = False,
    album: Album | None = None,
    mix: SceneMix = DRAWN,
) -> Scene:
    """Generate the scene of a seed, with `least` to `most` objects that do not touch, each in a separate zone.

    `on_white` forces a white background, for the first training steps: outlines are then learned faster.
    """
    return _Composer(np.random.default_rng(seed), album, mix).scene(seed, most, least, on_white)


class _Composer:
    """Builds one scene."""

    def __init__(self, rng: Generator, album: Album | None, mix: SceneMix) -> None:
        self.rng, self.album, self.mix = rng, album, mix
        self.items: list[SceneItem] = []
        self.ground: RGB = (255, 255, 255)
        self.theme: str | None = None

    def scene(self, seed: int, most: int, least: int, on_white: bool) -> Scene:
        rng = self.rng
        large = rng.random() < self.mix.large
        if large and self.album is not None and self.album.photos and rng.random() < 0.12:
            return self._photograph(seed, self.album)
        background, background_image = self._background(on_white)
        self.ground = _tone(rng, background.tones, spread=6)
        self.theme = self._theme()
        for _ in range(1 if large else int(rng.integers(least, most + 1))):
            item = self._place(most > 1, large)
            self.items += [item] if item else []
        items = tuple(sorted(self.items, key=lambda item: (item.zone.row, item.zone.column)))
        width, height = _native_size(rng)
        return Scene(seed, background, self.ground, items, width, height, self.album, background_image)

    def _background(self, on_white: bool) -> tuple[Background, int | None]:
        """Choose a background; white is the most frequent, photographs need an album with photographs."""
        rng = self.rng
        if on_white or rng.random() < 0.15:
            return BACKGROUNDS[0], None
        photos = self.album.photos if self.album else ()
        background = BACKGROUNDS[rng.integers(len(BACKGROUNDS) - (not photos))]
        if background.texture == "photo":
            return background, photos[rng.integers(len(photos))].index
        return background, None

    def _photograph(self, seed: int, album: Album) -> Scene:
        """Build a scene of one photograph that fills the image."""
        rng = self.rng
        entry = album.photos[rng.integers(len(album.photos))]
        item = SceneItem(entry.kind, None, (128, 128, 128), 0.5, 0.5, 0.5, image=entry.index, whole=True)
        item = self._relit(item, turned=False)
        width, height = _native_size(rng)
        return Scene(seed, BACKGROUNDS[-1], (128, 128, 128), (item,), width, height, album)

    def _theme(self) -> str | None:
        if self.album is None or self.rng.random() >= self.mix.themes:
            return None
        kind = self.album.kinds[self.rng.integers(len(self.album.kinds))]
        return kind.category

    def _place(self, crowded: bool, large: bool) -> SceneItem | None:
        """Create an object apart from the others that contrasts with the background; None if there is no space."""
        spot = self._centre() if large else _spot(self.rng, self.items, crowded)
        if spot is None:
            return None
        for _ in range(40):
            item = self._twin(spot) or self._new(spot)
            if math.dist(self._seen(item), self.ground) > (90 if item.drawn else 45):
                return self._framed(item)
        return None

    def _centre(self) -> tuple[float, float, float]:
        """Choose (x, y, size) of a large object near the middle."""
        size = float(self.rng.uniform(0.26, 0.49))
        slack = min(0.1, 0.5 - size)
        x, y = (0.5 + slack * self.rng.uniform(-1, 1) for _ in range(2))
        return float(x), float(y), size

    def _new(self, spot: tuple[float, float, float]) -> SceneItem:
        rng = self.rng
        chance = rng.random()
        if self.album is not None and (chance < self.mix.pasted or self.theme is not None):
            return self._pasted(self._entry(self.album), spot)
        colour = COLOURS[rng.integers(len(COLOURS))]
        tone = _tone(rng, colour.tones, spread=12)
        if chance < self.mix.pasted + self.mix.letters:
            kind = glyphs()[rng.integers(len(glyphs()))]
            return SceneItem(kind, colour, tone, *spot, _angle(rng))
        pool = kinds() if self.mix.anything else KINDS
        kind = pool[rng.integers(len(pool))]
        return SceneItem(kind, colour, tone, *spot, _angle(rng), _outline(rng, tone, self.ground))

    def _entry(self, album: Album) -> AlbumEntry:
        """Choose an album entry, each kind equally often; with a theme, all but the first object have its category."""
        pool = [k for k in album.kinds if k.category == self.theme] if self.theme and self.items else album.kinds
        entries = album.by_kind[pool[self.rng.integers(len(pool))]]
        return entries[self.rng.integers(len(entries))]

    def _pasted(self, entry: AlbumEntry, spot: tuple[float, float, float]) -> SceneItem:
        album = self.album
        if album is None:
            raise ValueError("pasted objects need an album")
        item = SceneItem(entry.kind, album.colour(entry.index), album.tone(entry.index), *spot, image=entry.index)
        return self._relit(item, turned=True)

    def _relit(self, item: SceneItem, turned: bool) -> SceneItem:
        """Rotate and flip a pasted image, and sometimes change its light."""
        rng = self.rng
        angle = float(rng.uniform(-0.35, 0.35)) if turned and rng.random() < 0.5 else 0.0
        item = replace(item, angle=angle, flip=bool(rng.random() < 0.3))
        if rng.random() < self.mix.relit:
            item = replace(item, light=float(rng.uniform(0.65, 1.3)), saturation=float(rng.uniform(0.5, 1.5)))
        if rng.random() < 0.3 * self.mix.relit:
            item = replace(item, shift=int(rng.integers(-40, 41)))
        return item if item.whole else self._coloured(item)

    def _coloured(self, item: SceneItem) -> SceneItem:
        """Update the colour of an object whose light was changed."""
        if self.album is None or item.image is None or (item.light, item.saturation, item.shift) == (1.0, 1.0, 0):
            return item
        small = relight(self.album.image(item.image).resize((32, 32)), item.shift, item.saturation, item.light)
        return replace(item, colour=dominant_colour(np.asarray(small)))

    def _twin(self, spot: tuple[float, float, float]) -> SceneItem | None:
        """Sometimes repeat an existing object, so that counts exceed one; a drawn one may get another colour."""
        rng = self.rng
        if not self.items or rng.random() > 0.3 or (self.theme and len(self.items) == 1):
            return None
        other = self.items[rng.integers(len(self.items))]
        if other.image is not None and self.album is not None:
            entries = self.album.by_kind[other.kind]
            same = next(entry for entry in entries if entry.index == other.image)
            return self._pasted(same if rng.random() < 0.6 else entries[rng.integers(len(entries))], spot)
        if rng.random() < 0.5:
            return SceneItem(other.kind, other.colour, other.tone, *spot, _angle(rng))
        colour = COLOURS[rng.integers(len(COLOURS))]
        return SceneItem(other.kind, colour, _tone(rng, colour.tones, spread=12), *spot, _angle(rng))

    def _seen(self, item: SceneItem) -> RGB:
        return item.tone if item.drawn or self.album is None else self.album.tone(item.image or 0)

    def _framed(self, item: SceneItem) -> SceneItem:
        """Put some objects inside a shape that contrasts with the object and the background."""
        rng = self.rng
        shapes = {other.kind for other in self.items} | {o.frame.kind for o in self.items if o.frame} | {item.kind}
        if item.size < 0.13 or item.size > 0.3 or rng.random() >= self.mix.frames or item.kind in _SHAPES:
            return item
        kind, inner = _FRAMES[rng.integers(len(_FRAMES))]
        colour = COLOURS[rng.integers(len(COLOURS))]
        tone = _tone(rng, colour.tones, spread=12)
        if kind in shapes or min(math.dist(tone, self._seen(item)), math.dist(tone, self.ground)) < 90:
            return item
        return replace(item, frame=Frame(kind, colour, tone, inner))


def _spot(rng: Generator, others: list[SceneItem], crowded: bool) -> tuple[float, float, float] | None:
    """Find a free (x, y, size) that is clearly in one zone, in sixty tries, later ones with smaller sizes; or None."""
    smallest, largest = (0.10 if crowded else 0.14), (0.19 if others else 0.30)
    for attempt, (a, b, c) in enumerate(rng.random((60, 3)).tolist()):
        size = smallest + a * ((largest if attempt < 30 else 0.13) - smallest)
        x, y = (size + 0.01 + fraction * (0.98 - 2 * size) for fraction in (b, c))
        if _clear(x, y, size, others):
            return x, y, size
    return None


def _clear(x: float, y: float, size: float, others: list[SceneItem]) -> bool:
    if any(abs(v - line) < _MARGIN for v in (x, y) for line in (0.36, 0.64)):
        return False
    zone = _zone(x, y)
    return all(
        max(abs(x - other.x), abs(y - other.y)) > size + other.size + 0.02 and zone != other.zone for other in others
    )


def _angle(rng: Generator) -> float:
    return float(rng.uniform(-0.2, 0.2)) if rng.random() < 0.4 else 0.0


def _outline(rng: Generator, tone: RGB, ground: RGB) -> RGB | None:
    """Choose a dark outline for one in five objects, unless the object or the background is dark."""
    return (20, 20, 20) if rng.random() < 0.2 and min(sum(tone), sum(ground)) > 240 else None


def _tone(rng: Generator, tones: tuple[RGB, ...], spread: int) -> RGB:
    tone = zip(tones[rng.integers(len(tones))], rng.integers(-spread, spread + 1, 3).tolist(), strict=True)
    red, green, blue = (min(255, max(0, level + change)) for level, change in tone)
    return red, green, blue


def _native_size(rng: Generator) -> tuple[int, int]:
    """Choose an image size: most are square, 112 to 300 px; a quarter is landscape or portrait."""
    side = (112, 112, 128, 160, 224, 300)[rng.integers(6)]
    stretch = float(rng.uniform(1.1, 1.4)) if rng.random() < 0.25 else 1.0
    return (round(side * stretch), side) if rng.random() < 0.7 else (side, round(side * stretch))
