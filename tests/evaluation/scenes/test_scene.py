"""Drawn scenes: reproducible, rendered as described, with disjoint seeds per split."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from visualglm.evaluation.scenes import KINDS, Split, render_scene, scene_of, seeds
from visualglm.evaluation.scenes.scene import SceneMix
from visualglm.evaluation.scenes.split_seeds import RANGE

SCENES = [scene_of(seed) for seed in range(40)]


def test_splits_share_no_seed() -> None:
    ranges = [range(split.value * RANGE, (split.value + 1) * RANGE) for split in Split]
    for index, one in enumerate(ranges):
        assert all(one.stop <= other.start or other.stop <= one.start for other in ranges[index + 1 :])
    for split, allowed in zip(Split, ranges, strict=True):
        assert all(seed in allowed for seed in islice(seeds(split, RANGE - 5), 10))


def test_a_split_refuses_a_start_outside_it() -> None:
    with pytest.raises(ValueError, match="seeds 0 to"):
        seeds(Split.TEST, RANGE)


def test_a_seed_gives_the_same_image_twice() -> None:
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


def test_the_image_shows_the_colour_that_the_truth_names() -> None:
    for scene in SCENES:
        pixels = np.asarray(render_scene(scene, (224, 224)), dtype=int)
        for item in scene.items:
            near = np.abs(pixels - np.array(item.tone)).sum(axis=-1) < 12
            assert near.sum() > 40, (scene.seed, item.kind.key)


def test_every_kind_is_drawn() -> None:
    shown = {item.kind for seed in range(200) for item in scene_of(seed).items}
    assert shown == set(KINDS)


def test_letters_and_frames_are_drawn_where_the_labels_are() -> None:
    mix = SceneMix(letters=0.5, frames=0.6)
    scenes = [scene_of(seed, 6, mix=mix) for seed in range(80)]
    assert any(scene.frames for scene in scenes)
    assert any(item.kind.category == "letter" for scene in scenes for item in scene.items)
    for scene in scenes[:20]:
        pixels = np.asarray(render_scene(scene, (224, 224)), dtype=int)
        for item in scene.items:
            assert (np.abs(pixels - np.array(item.tone)).sum(axis=-1) < 12).sum() > 20, (scene.seed, item.kind.key)
