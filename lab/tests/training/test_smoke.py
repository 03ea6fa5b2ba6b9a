"""The smoke recipe: every kind of stage, in under two minutes; the result is better than chance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from visualglm_lab.training.config import KINDS, read_scene_config
from visualglm_lab.training.scene_batches import SceneBatch
from visualglm_lab.training.trainer import SceneTrainer

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.toml"


def test_the_smoke_recipe_beats_chance(tmp_path: Path) -> None:
    recipe = replace(read_scene_config(SMOKE), output=str(tmp_path))
    assert [stage.kind for stage in recipe.stages] == list(KINDS)
    run = SceneTrainer(recipe, lambda line: None)
    run.run()
    torch.set_num_threads(1)  # as every other test; the recipe takes two
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    language = [line["language"] for line in logged if line["stage"] == "dialogue" and "language" in line]
    assert language[-1] < 3.5  # every piece alike would be 7.7
    patches = replace(recipe.stages[1], on_white=0)
    batch = next(iter(run.batches(patches, 0, validation=True)))
    assert isinstance(batch, SceneBatch)
    with torch.no_grad():
        _, report = run.objective.eval()(patches, batch)
    assert report["patch_colours"] > 0.4  # ten colours: chance is .1, and these scenes were never trained on
