"""The pointing game: boxes of objects, hits and controls of planted maps, and the packed model on two scenes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import visualglm
from visualglm.evaluation import pointing_game
from visualglm.evaluation.pointing_game import METHODS, figures, patches_of, play
from visualglm.evaluation.readers.drawn import evaluation_scenes
from visualglm.evaluation.scenes.render import extent, render_scene
from visualglm.explanation.attribution import Attribution

SCENES = evaluation_scenes("scenes", 3)


@pytest.mark.parametrize("side", [9, 16])
def test_the_patches_of_an_object_are_where_it_is_drawn(side: int) -> None:
    for scene in SCENES:
        for item in scene.items:
            (x, y), half = extent(item, scene.width, scene.height)
            patches = patches_of(item, scene, side)
            assert patches[int(y / scene.height * side), int(x / scene.width * side)]
            box = 4 * half[0] * half[1] / (scene.width * scene.height)
            assert patches.mean() == pytest.approx(
                box, abs=2.5 * (half[0] + half[1]) / side / scene.height + 1 / side**2
            )


def planted(offset: int) -> Any:
    """Attribution whose strongest patch is the centre of the scene's object number `offset`, for any word."""

    def attribute(network: Any, ids: Any, length: int, pixels: torch.Tensor, method: str) -> Attribution:
        scene = next(s for s in SCENES if torch.equal(opened_pixels[s.seed], pixels))
        item, rows = scene.items[offset % len(scene.items)], torch.full((length, 256), 0.001)
        rows[:, 16 * int(item.y * 16) + int(item.x * 16)] = 1.0
        return Attribution(torch.eye(length), rows, torch.zeros(length))

    return attribute


opened_pixels: dict[int, torch.Tensor] = {}


def test_planted_maps_hit_what_they_are_planted_on(
    opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_pixels.update({scene.seed: opened.pixel_values(render_scene(scene)) for scene in SCENES})
    monkeypatch.setattr(pointing_game, "attribute", planted(0))
    found = list(play(opened, SCENES))
    first = {f"{scene.seed}/{language}/{scene.items[0].kind.key}" for scene in SCENES for language in ("zh", "en")}
    assert found and any(one.id in first for one in found)
    for one in found:
        for method in METHODS:
            assert one.statistics[method][0] == (1.0 if one.id in first else 0.0)


def test_the_packed_model_is_measured_with_both_controls(opened: visualglm.VisualGLM) -> None:
    found = list(play(opened, SCENES[:2]))
    hits = figures(found)
    assert {"chance", *METHODS} <= set(hits)
    for estimate in hits.values():
        assert estimate is not None and 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    chance = hits["chance"]
    assert chance is not None and chance.n == len(found)
    assert {one.group for one in found} <= {str(scene.seed) for scene in SCENES[:2]}
