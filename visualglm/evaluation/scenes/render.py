"""Scene -> picture: the ground, then every object, drawn or pasted, then a little weather.

Everything that is left open by the scene comes from its seed: the same scene is the same pixels every time. Knows
nothing about questions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .backgrounds import ground_of
from .colours import relight
from .concepts import LETTER
from .scene import Scene, SceneItem
from .shapes import draw_kind, stamp_kind

Extent = tuple[tuple[float, float], tuple[float, float]]


def render_scene(scene: Scene, size: tuple[int, int] | None = None) -> Image.Image:
    """Draws the scene at its native size (or `size`), supersampled twice; the same pixels every time."""
    width, height = size or (scene.width, scene.height)
    rng = np.random.default_rng(scene.seed + 1)
    canvas = ground_of(scene.background, scene.tone, (2 * width, 2 * height), rng, _photo(scene))
    for item in scene.items:
        _paint(canvas, scene, item)
    image = canvas.resize((width, height), Image.Resampling.BOX)
    return _weathered(image, rng) if size is None else image


def _photo(scene: Scene) -> Image.Image | None:
    """The photograph a scene with a photographic ground takes it from; a whole photograph is no ground."""
    if scene.album is None or scene.background_image is None:
        return None
    return scene.album.image(scene.background_image)


def _paint(canvas: Image.Image, scene: Scene, item: SceneItem) -> None:
    ink = ImageDraw.Draw(canvas)
    centre, half = extent(item, canvas.width, canvas.height)
    if item.frame is not None:
        draw_kind(ink, item.frame.kind.key, item.frame.tone, centre, half)
        half = (half[0] * item.frame.inner, half[1] * item.frame.inner)
    if item.image is not None:
        cut = _cut_out(scene, item, half)
        canvas.paste(cut, _corner(cut, centre), cut)
    elif item.kind.category == LETTER:
        glyph = _glyph(item, half)
        canvas.paste(Image.new("RGB", glyph.size, item.tone), _corner(glyph, centre), glyph)
    else:
        draw_kind(ink, item.kind.key, item.tone, centre, half, item.angle, item.outline)


def stamp(owners: Image.Image, scene: Scene, item: SceneItem, number: int) -> None:
    """Draws an object's silhouette in one value, for label maps."""
    centre, half = extent(item, owners.width, owners.height, scene)
    if item.frame is not None:
        stamp_kind(ImageDraw.Draw(owners), item.frame.kind.key, number, centre, half)
    elif item.image is not None or item.kind.category == LETTER:
        mask = _mask(scene, item, half).point(lambda level: 255 * (level > 100))
        owners.paste(number, _corner(mask, centre), mask)
    else:
        stamp_kind(ImageDraw.Draw(owners), item.kind.key, number, centre, half, item.angle)


def _mask(scene: Scene, item: SceneItem, half: tuple[float, float]) -> Image.Image:
    """Where a letter or a pasted picture can be seen."""
    return _glyph(item, half) if item.image is None else _placed(_image(scene, item).getchannel("A"), item, half)


def extent(item: SceneItem, width: int, height: int, native: Scene | None = None) -> Extent:
    """Centre and half-extents in pixels of a canvas; circles stay round in the native picture."""
    natural_width, natural_height = (native.width, native.height) if native else (width, height)
    side = max(natural_width, natural_height) if item.whole else min(natural_width, natural_height)
    half = (item.size * side * width / natural_width, item.size * side * height / natural_height)
    return (item.x * width, item.y * height), half


def _corner(pasted: Image.Image, centre: tuple[float, float]) -> tuple[int, int]:
    return round(centre[0] - pasted.width / 2), round(centre[1] - pasted.height / 2)


def _cut_out(scene: Scene, item: SceneItem, half: tuple[float, float]) -> Image.Image:
    """The object's picture [RGBA] at its size, turned, flipped, and in other light."""
    return _placed(relight(_image(scene, item), item.shift, item.saturation, item.light), item, half)


def _image(scene: Scene, item: SceneItem) -> Image.Image:
    if scene.album is None or item.image is None:
        raise ValueError("a scene with pasted objects carries its album")
    return scene.album.image(item.image)


def _placed(image: Image.Image, item: SceneItem, half: tuple[float, float]) -> Image.Image:
    """A picture or its mask at the object's size, flipped and turned."""
    size = (max(2, round(2 * half[0])), max(2, round(2 * half[1])))
    if item.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if item.angle:
        image = image.rotate(math.degrees(-item.angle), Image.Resampling.BILINEAR)
    return image.resize(size, Image.Resampling.BILINEAR)


def _glyph(item: SceneItem, half: tuple[float, float]) -> Image.Image:
    """A letter or digit as a mask."""
    font = ImageFont.load_default(size=max(6, round(2.3 * half[1])))
    text = item.kind.key[-1]
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(mask).text((1 - left, 1 - top), text, fill=255, font=font, stroke_width=max(0, round(half[1] / 16)))
    return mask.rotate(math.degrees(-item.angle), Image.Resampling.BILINEAR, expand=True) if item.angle else mask


def _weathered(image: Image.Image, rng: Generator) -> Image.Image:
    """A little blur or noise now and then, as pictures of unknown origin have it."""
    chance = rng.random()
    if chance < 0.1:
        return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9))))
    if chance < 0.25:
        grain = rng.normal(0, rng.uniform(2, 7), (image.height, image.width, 1))
        return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    return image
