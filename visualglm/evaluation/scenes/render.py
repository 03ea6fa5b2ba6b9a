"""Render a scene: background, then objects, then sometimes blur or noise.

Random details are derived from the scene's seed, so a scene always has the same pixels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .backgrounds import draw_background
from .colours import relight
from .concepts import LETTER
from .scene import Scene, SceneItem
from .shapes import draw_kind, stamp_kind

Extent = tuple[tuple[float, float], tuple[float, float]]


def render_scene(scene: Scene, size: tuple[int, int] | None = None) -> Image.Image:
    """Render the scene at its native size (or `size`), with 2x supersampling; blur and noise only at native size."""
    width, height = size or (scene.width, scene.height)
    rng = np.random.default_rng(scene.seed + 1)
    album, index = scene.album, scene.background_image
    photo = None if album is None or index is None else album.image(index)
    canvas = draw_background(scene.background, scene.tone, (2 * width, 2 * height), rng, photo)
    for item in scene.items:
        _paint(canvas, scene, item)
    image = canvas.resize((width, height), Image.Resampling.BOX)
    return _degrade(image, rng) if size is None else image


def _paint(canvas: Image.Image, scene: Scene, item: SceneItem) -> None:
    ink = ImageDraw.Draw(canvas)
    centre, half = extent(item, canvas.width, canvas.height)
    if item.frame is not None:
        draw_kind(ink, item.frame.kind.key, item.frame.tone, centre, half)
        half = (half[0] * item.frame.inner, half[1] * item.frame.inner)
    if item.image is not None:
        lit = relight(_image(scene, item), item.shift, item.saturation, item.light)
        cut = _placed(lit, item, half)
        canvas.paste(cut, _corner(cut, centre), cut)
    elif item.kind.category == LETTER:
        glyph = _glyph(item, half)
        canvas.paste(Image.new("RGB", glyph.size, item.tone), _corner(glyph, centre), glyph)
    else:
        draw_kind(ink, item.kind.key, item.tone, centre, half, item.angle, item.outline)


def stamp(owners: Image.Image, scene: Scene, item: SceneItem, number: int) -> None:
    """Draw an object's silhouette with the value `number`, for label maps."""
    centre, half = extent(item, owners.width, owners.height, scene)
    if item.frame is not None:
        stamp_kind(ImageDraw.Draw(owners), item.frame.kind.key, number, centre, half)
    elif item.image is not None or item.kind.category == LETTER:
        alpha = None if item.image is None else _image(scene, item).getchannel("A")
        shown = _glyph(item, half) if alpha is None else _placed(alpha, item, half)
        mask = shown.point(lambda level: 255 * (level > 100))
        owners.paste(number, _corner(mask, centre), mask)
    else:
        stamp_kind(ImageDraw.Draw(owners), item.kind.key, number, centre, half, item.angle)


def extent(item: SceneItem, width: int, height: int, native: Scene | None = None) -> Extent:
    """Return centre and half-extents in pixels of a canvas; circles stay round at the native aspect ratio."""
    natural_width, natural_height = (native.width, native.height) if native else (width, height)
    side = max(natural_width, natural_height) if item.whole else min(natural_width, natural_height)
    half = (item.size * side * width / natural_width, item.size * side * height / natural_height)
    return (item.x * width, item.y * height), half


def _corner(pasted: Image.Image, centre: tuple[float, float]) -> tuple[int, int]:
    return round(centre[0] - pasted.width / 2), round(centre[1] - pasted.height / 2)


def _image(scene: Scene, item: SceneItem) -> Image.Image:
    if scene.album is None or item.image is None:
        raise ValueError("a scene with pasted objects carries its album")
    return scene.album.image(item.image)


def _placed(image: Image.Image, item: SceneItem, half: tuple[float, float]) -> Image.Image:
    """Resize, flip and rotate an image or its mask as the object is."""
    size = (max(2, round(2 * half[0])), max(2, round(2 * half[1])))
    if item.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if item.angle:
        image = image.rotate(math.degrees(-item.angle), Image.Resampling.BILINEAR)
    return image.resize(size, Image.Resampling.BILINEAR)


def _glyph(item: SceneItem, half: tuple[float, float]) -> Image.Image:
    """Draw a letter or digit as a mask."""
    font = ImageFont.load_default(size=max(6, round(2.3 * half[1])))
    text = item.kind.key[-1]
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(mask).text((1 - left, 1 - top), text, fill=255, font=font, stroke_width=max(0, round(half[1] / 16)))
    return mask.rotate(math.degrees(-item.angle), Image.Resampling.BILINEAR, expand=True) if item.angle else mask


def _degrade(image: Image.Image, rng: Generator) -> Image.Image:
    """Sometimes add a little blur or noise, as real images have."""
    chance = rng.random()
    if chance < 0.1:
        return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9))))
    if chance < 0.25:
        grain = rng.normal(0, rng.uniform(2, 7), (image.height, image.width, 1))
        return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    return image
