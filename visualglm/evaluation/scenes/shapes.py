"""Draw kinds as coloured polygons.

In: a kind's key, a main colour, centre, size and angle. Out: polygons on a PIL canvas. Each kind is a list of (points
in [-1, 1] x [-1, 1] with y downwards, role); the role determines the part's colour from the main colour.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from .kinds import RGB

Role = Literal["main", "dark", "light", "wood", "black", "cream"]
Points = NDArray[np.float64]
Part = tuple[Points, Role]

_FIXED: dict[str, RGB] = {"wood": (121, 78, 42), "black": (30, 30, 30), "cream": (240, 228, 205)}


def parts(kind: str) -> list[Part]:
    """Return the polygons of a kind, from back to front."""
    return _parts(kind)


def draw_kind(
    canvas: ImageDraw.ImageDraw,
    kind: str,
    colour: RGB,
    centre: tuple[float, float],
    half: tuple[float, float],
    angle: float = 0.0,
    outline: RGB | None = None,
) -> None:
    """Draw `kind` around `centre` (pixels) with half-extents `half`, rotated by `angle` radians."""
    for points, role in parts(kind):
        corners = _placed(points, centre, half, angle)
        width = max(1, round(min(half) / 14)) if outline else 0
        canvas.polygon(corners, fill=_tone(colour, role), outline=outline, width=width)


def stamp_kind(
    canvas: ImageDraw.ImageDraw,
    kind: str,
    label: int,
    centre: tuple[float, float],
    half: tuple[float, float],
    angle: float = 0.0,
) -> None:
    """Draw the kind's silhouette with the value `label`, for label maps."""
    for points, _ in parts(kind):
        canvas.polygon(_placed(points, centre, half, angle), fill=label)


def _placed(
    points: Points, centre: tuple[float, float], half: tuple[float, float], angle: float
) -> list[tuple[float, float]]:
    cos, sin = math.cos(angle), math.sin(angle)
    x = points[:, 0] * cos - points[:, 1] * sin
    y = points[:, 0] * sin + points[:, 1] * cos
    return list(zip((centre[0] + half[0] * x).tolist(), (centre[1] + half[1] * y).tolist(), strict=True))


def _tone(colour: RGB, role: Role) -> RGB:
    if role == "main":
        return colour
    if role in _FIXED:
        return _FIXED[role]
    target, fraction = (0, 0.4) if role == "dark" else (255, 0.55)
    red, green, blue = (round(c + (target - c) * fraction) for c in colour)
    return red, green, blue


def _polygon(*corners: tuple[float, float]) -> Points:
    return np.array(corners, dtype=np.float64)


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Points:
    """Return an ellipse, or its arc from `start` to `stop` degrees (0 = right, 90 = down)."""
    turn = np.radians(np.linspace(start, stop, 40))
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1)


def _band(x: float, y: float, outer: float, inner: float, start: float, stop: float) -> Points:
    """Return a sector of a ring between two radii."""
    return np.concatenate([_ellipse(x, y, outer, outer, start, stop), _ellipse(x, y, inner, inner, stop, start)])


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom))


def _rays(count: int, outer: float, inner: float) -> Points:
    """Return a star with `count` points, one of them at the top."""
    turn = np.radians(-90 + np.arange(2 * count) * 180 / count)
    radius = np.where(np.arange(2 * count) % 2 == 0, outer, inner)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _heart() -> Points:
    turn = np.linspace(0, 2 * np.pi, 60)
    y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([np.sin(turn) ** 3, -(y + 2.5) / 15], axis=1)


def _cross() -> Points:
    a = 0.34
    return _polygon(
        (-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)
    )


def _crescent() -> Points:
    outside = _ellipse(0.0, 0.0, 0.95, 0.95, 60, 300)
    inside = _ellipse(0.5, 0.0, 0.82, 0.82, 268, 92)
    return np.concatenate([outside, inside])


def _flower() -> list[Part]:
    petals = [_ellipse(0.42 * math.cos(t), -0.35 + 0.42 * math.sin(t), 0.28, 0.28) for t in np.arange(6) * math.pi / 3]
    stem: list[Part] = [(_box(-0.06, -0.3, 0.06, 1.0), "wood"), (_ellipse(0.28, 0.62, 0.26, 0.1), "wood")]
    return [*stem, *((petal, "main") for petal in petals), (_ellipse(0, -0.35, 0.24, 0.24), "cream")]


def _umbrella() -> list[Part]:
    handle = _band(0.17, 0.72, 0.24, 0.12, 0, 180)
    canopy = _ellipse(0, 0.05, 1.0, 0.95, 180, 360)
    ribs = _polygon((0, -0.9), (-0.33, 0.05), (0.33, 0.05))
    return [(_box(-0.06, -0.9, 0.06, 0.75), "dark"), (handle, "dark"), (canopy, "main"), (ribs, "dark")]


def _car() -> list[Part]:
    cabin = _polygon((-0.55, -0.1), (-0.35, -0.6), (0.35, -0.6), (0.6, -0.1))
    window = _polygon((-0.4, -0.12), (-0.27, -0.48), (0.27, -0.48), (0.43, -0.12))
    wheels: list[Part] = [(_ellipse(x, 0.42, 0.23, 0.23), "black") for x in (-0.52, 0.52)]
    return [(cabin, "main"), (window, "light"), (_box(-1, -0.12, 1, 0.4), "main"), *wheels]


@lru_cache(maxsize=64)
def _parts(kind: str) -> list[Part]:
    table: dict[str, list[Part]] = {
        "circle": [(_ellipse(0, 0, 1, 1), "main")],
        "square": [(_box(-0.9, -0.9, 0.9, 0.9), "main")],
        "triangle": [(_polygon((0, -0.95), (1, 0.85), (-1, 0.85)), "main")],
        "star": [(_rays(5, 1.05, 0.42), "main")],
        "heart": [(_heart(), "main")],
        "rectangle": [(_box(-1.0, -0.5, 1.0, 0.5), "main")],
        "diamond": [(_polygon((0, -1.05), (0.72, 0), (0, 1.05), (-0.72, 0)), "main")],
        "cross": [(_cross(), "main")],
        "house": [
            (_box(-0.75, -0.15, 0.75, 0.95), "main"),
            (_polygon((0, -0.95), (1, -0.12), (-1, -0.12)), "dark"),
            (_box(-0.2, 0.35, 0.2, 0.95), "wood"),
        ],
        "tree": [
            (_box(-0.14, 0.1, 0.14, 1.0), "wood"),
            (_ellipse(-0.38, 0.0, 0.45, 0.42), "main"),
            (_ellipse(0.38, 0.0, 0.45, 0.42), "main"),
            (_ellipse(0, -0.45, 0.52, 0.5), "main"),
        ],
        "sun": [(_rays(12, 1.0, 0.66), "light"), (_ellipse(0, 0, 0.58, 0.58), "main")],
        "moon": [(_crescent(), "main")],
        "car": _car(),
        "boat": [
            (_box(-0.05, -0.95, 0.05, 0.35), "wood"),
            (_polygon((0.1, -0.9), (0.8, 0.2), (0.1, 0.2)), "light"),
            (_polygon((-1, 0.3), (1, 0.3), (0.6, 0.85), (-0.6, 0.85)), "main"),
        ],
        "fish": [
            (_polygon((0.45, 0), (1.0, -0.5), (1.0, 0.5)), "dark"),
            (_ellipse(-0.2, 0, 0.8, 0.5), "main"),
            (_ellipse(-0.6, -0.12, 0.11, 0.11), "cream"),
            (_ellipse(-0.62, -0.12, 0.05, 0.05), "black"),
        ],
        "flower": _flower(),
        "cup": [
            (_band(0.55, 0.0, 0.45, 0.27, -90, 90), "dark"),
            (_polygon((-0.8, -0.7), (0.55, -0.7), (0.42, 0.8), (-0.67, 0.8)), "main"),
            (_ellipse(-0.125, -0.7, 0.675, 0.16), "light"),
        ],
        "umbrella": _umbrella(),
        "mushroom": [
            (_polygon((-0.25, 0.0), (0.25, 0.0), (0.34, 0.95), (-0.34, 0.95)), "cream"),
            (_ellipse(0, 0.1, 0.98, 0.98, 180, 360), "main"),
            (_ellipse(-0.4, -0.3, 0.15, 0.15), "cream"),
            (_ellipse(0.35, -0.4, 0.17, 0.17), "cream"),
        ],
        "balloon": [
            (_box(-0.03, 0.5, 0.03, 1.05), "black"),
            (_polygon((0, 0.4), (0.14, 0.62), (-0.14, 0.62)), "dark"),
            (_ellipse(0, -0.25, 0.62, 0.75), "main"),
            (_ellipse(-0.22, -0.5, 0.12, 0.18), "light"),
        ],
    }
    return table[kind]
