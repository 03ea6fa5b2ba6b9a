"""Drawn scenes: the same seed is the same picture, the truth is what is drawn, and no split sees another's seeds."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from visualglm.evaluation.scenes import (
    KINDS,
    ZONES,
    Split,
    patch_labels,
    render_scene,
    scene_of,
    split_seeds,
    zone_labels,
)
from visualglm.evaluation.scenes.concepts import kinds as all_kinds
from visualglm.evaluation.scenes.concepts import number_of
from visualglm.evaluation.scenes.scene import SceneMix
from visualglm.evaluation.scenes.split_seeds import RANGE

SCENES = [scene_of(seed) for seed in range(40)]


def test_splits_share_no_seed() -> None:
    ranges = [range(split.value * RANGE, (split.value + 1) * RANGE) for split in Split]
    for index, one in enumerate(ranges):
        assert all(one.stop <= other.start or other.stop <= one.start for other in ranges[index + 1 :])
    for split, allowed in zip(Split, ranges, strict=True):
        assert all(seed in allowed for seed in islice(split_seeds(split, RANGE - 5), 10))


def test_a_split_refuses_a_start_outside_it() -> None:
    with pytest.raises(ValueError, match="seeds 0 to"):
        split_seeds(Split.TEST, RANGE)


def test_a_seed_gives_the_same_picture_twice() -> None:
    for seed in (0, 7, 2 * RANGE + 3):
        one, other = (render_scene(scene_of(seed)) for _ in range(2))
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_objects_have_zones_of_their_own_and_do_not_touch() -> None:
    for scene in SCENES:
        assert 1 <= len(scene.items) <= 4
        zones = [item.zone for item in scene.items]
        assert len(set(zones)) == len(zones)
        for one in scene.items:
            for other in scene.items:
                apart = max(abs(one.x - other.x), abs(one.y - other.y))
                assert one is other or apart > one.size + other.size


def test_the_picture_shows_the_colour_that_the_truth_names() -> None:
    for scene in SCENES:
        pixels = np.asarray(render_scene(scene, (224, 224)), dtype=int)
        for item in scene.items:
            near = np.abs(pixels - np.array(item.tone)).sum(axis=-1) < 12
            assert near.sum() > 40, (scene.seed, item.kind.key)


def test_every_kind_is_drawn() -> None:
    shown = {item.kind for seed in range(200) for item in scene_of(seed).items}
    assert shown == set(KINDS)


def test_patch_labels_lie_where_the_objects_are() -> None:
    for scene in SCENES:
        labels = patch_labels(scene, 8)
        assert labels.kinds.shape == (64,)
        assert ((labels.kinds > 0) == (labels.colours > 0)).all()
        assert labels.outline.shape == (64, 64)
        for patch in np.flatnonzero(labels.kinds):
            x, y = (patch % 8 + 0.5 + labels.offsets[patch, 0]) / 8, (patch // 8 + 0.5 + labels.offsets[patch, 1]) / 8
            item = min(scene.items, key=lambda item: abs(item.x - x) + abs(item.y - y))
            assert labels.kinds[patch] == 1 + number_of()[item.kind]


def test_zone_labels_name_every_object_once() -> None:
    for scene in SCENES:
        kinds, _, pictures = zone_labels(scene)
        assert not pictures.any()
        assert [all_kinds()[k - 1] for k in kinds if k] == [item.kind for item in scene.items]
        assert [ZONES[z] for z in np.flatnonzero(kinds)] == [item.zone for item in scene.items]


def test_letters_and_frames_are_drawn_where_the_labels_are() -> None:
    mix = SceneMix(letters=0.5, frames=0.6)
    scenes = [scene_of(seed, 6, mix=mix) for seed in range(80)]
    assert any(scene.frames for scene in scenes)
    assert any(item.kind.category == "letter" for scene in scenes for item in scene.items)
    for scene in scenes[:20]:
        pixels = np.asarray(render_scene(scene, (224, 224)), dtype=int)
        for item in scene.items:
            assert (np.abs(pixels - np.array(item.tone)).sum(axis=-1) < 12).sum() > 20, (scene.seed, item.kind.key)
