"""Label every patch and every zone of a scene, for training.

Kinds are numbered as in `concepts.kinds()` and colours as in `COLOURS`, both from 1; 0 is empty, and `MIXED` is the
colour label of an object with several colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visualglm.evaluation.scenes.concepts import number_of
from visualglm.evaluation.scenes.kinds import COLOURS, ZONES
from visualglm.evaluation.scenes.render import stamp
from visualglm.evaluation.scenes.scene import Scene, SceneItem

MIXED = 1 + len(COLOURS)
"""The colour label of a thing that has several colours."""


@dataclass(frozen=True)
class PatchLabels:
    """Labels per patch, row by row.

    Attributes:
        kinds: [patches], of the patch's object; likewise `colours`, `images` and `zones`.
        outline: [patches, pixels of every second row and column], True inside an object.
        offsets: [patches, 3], see `_offsets`.
    """

    kinds: NDArray[np.int64]
    colours: NDArray[np.int64]
    images: NDArray[np.int64]
    zones: NDArray[np.int64]
    outline: NDArray[np.bool_]
    offsets: NDArray[np.float32]


def patch_labels(scene: Scene, grid: int, side: int = 16) -> PatchLabels:
    """Label each patch of a `grid` x `grid` raster, `side` pixels each; 0 if less than a fifth is covered."""
    owners = np.asarray(_owners(scene, side * grid))
    blocks = owners.reshape(grid, side, grid, side).transpose(0, 2, 1, 3)
    pixels = blocks.reshape(grid * grid, -1)
    cover = np.stack([(pixels == n).mean(axis=1) for n in range(1, len(scene.items) + 1)], axis=1)
    owner = np.where(cover.max(axis=1) >= 0.2, cover.argmax(axis=1) + 1, 0)
    kinds = np.array([0, *(1 + number_of()[item.kind] for item in scene.items)])
    colours = np.array([0, *(colour_label(item) for item in scene.items)])
    images = np.array([0, *(image_label(item) for item in scene.items)])
    outline = blocks[:, :, ::2, ::2].reshape(grid * grid, -1) > 0
    zones = np.array([0, *(1 + ZONES.index(item.zone) for item in scene.items)])
    return PatchLabels(kinds[owner], colours[owner], images[owner], zones[owner], outline, _offsets(scene, owner, grid))


def zone_labels(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (kind, colour, image) labels per zone, each [9] in reading order; 0 for an empty zone."""
    kinds, colours, images = np.zeros((3, len(ZONES)), dtype=np.int64)
    for item in scene.items:
        zone = ZONES.index(item.zone)
        kinds[zone], colours[zone] = 1 + number_of()[item.kind], colour_label(item)
        images[zone] = image_label(item)
    return kinds, colours, images


def colour_label(item: SceneItem) -> int:
    return 1 + COLOURS.index(item.colour) if item.colour else MIXED


def image_label(item: SceneItem) -> int:
    """Return the album index of the pasted image plus one; 0 for drawn objects."""
    return 0 if item.image is None else 1 + item.image


def _owners(scene: Scene, side: int) -> Image.Image:
    """Draw the index of the object at every pixel of a small raster, from 1; 0 for none."""
    owners = Image.new("L", (side, side))
    for number, item in enumerate(scene.items, start=1):
        stamp(owners, scene, item, number)
    return owners


def _offsets(scene: Scene, owner: NDArray[np.int64], grid: int) -> NDArray[np.float32]:
    """Return [grid * grid, 3]: from each patch to its object's centre, in patches, and the object's half-extent."""
    place = (np.arange(grid * grid) % grid + 0.5, np.arange(grid * grid) // grid + 0.5)
    target = np.array([(0, 0, 0), *((item.x * grid, item.y * grid, item.size * grid) for item in scene.items)])[owner]
    there = (owner > 0)[:, None]
    return (there * (target - np.stack([*place, np.zeros(grid * grid)], axis=1))).astype(np.float32)
