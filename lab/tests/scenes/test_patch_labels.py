"""Labels of patches and zones: they say what the picture shows where they are."""

from __future__ import annotations

import numpy as np

from visualglm.evaluation.scenes import ZONES, scene_of
from visualglm.evaluation.scenes.concepts import kinds as all_kinds
from visualglm.evaluation.scenes.concepts import number_of
from visualglm_lab.scenes.patch_labels import patch_labels, zone_labels

SCENES = [scene_of(seed) for seed in range(40)]


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
        kinds, _, images = zone_labels(scene)
        assert not images.any()
        assert [all_kinds()[k - 1] for k in kinds if k] == [item.kind for item in scene.items]
        assert [ZONES[z] for z in np.flatnonzero(kinds)] == [item.zone for item in scene.items]
