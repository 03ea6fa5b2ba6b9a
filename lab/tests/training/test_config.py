"""Recipes: the shipped one is valid, and a misspelt key is an error with the nearest known one."""

from __future__ import annotations

from pathlib import Path

import pytest

from visualglm.errors import UsageError
from visualglm_lab.training.__main__ import main, with_stages
from visualglm_lab.training.config import read_scene_config

SHIPPED = Path(__file__).parents[2] / "recipes" / "mini" / "recipe.toml"


def test_the_shipped_recipe_reads_and_begins_with_its_command() -> None:
    recipe = read_scene_config(SHIPPED)
    assert [stage.kind for stage in recipe.stages][:3] == ["patches", "zones", "zones"]
    command = "# torchrun --standalone --nproc-per-node 2 -m visualglm_lab.training lab/recipes/mini/recipe.toml"
    assert SHIPPED.read_text(encoding="utf-8").startswith(command)


@pytest.mark.parametrize(
    ("line", "named"),
    [('outptu = "x"', "output"), ("[model]\nlayer = 3", "layers"), ("[[stages]]\nminute = 3", "minutes")],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'vocabulary = "v"\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=f"Did you mean {named}"):
        read_scene_config(path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('output = "runs"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="vocabulary"):
        read_scene_config(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('seed = "x"', "seed in the recipe is 'x'. Give a whole number"),
        ("bfloat16 = 1", "Give true or false"),
        ("model = 3", "model is 3. Give a table"),
        ("stages = []", "has 0 stages"),
        ('[[stages]]\nname = "a"\nkind = "zone"\nsteps = 1', "Did you mean zones"),
        ('[[stages]]\nname = "a"\nkind = "zones"', "has no length"),
        ('[[stages]]\nname = "a"\nkind = "zones"\nminutes = "3"', "minutes in stages is '3'. Give a number"),
        ('[[stages]]\nname = "a"\nkind = "zones"\nsteps = 1\nmix = 2', "mix is 2. Give a table"),
        (
            '[[stages]]\nname = "a"\nkind = "zones"\nsteps = 1\nasked = 2',
            "is 2. Give a table of numbers",
        ),
        ('[[stages]]\nname = "a"\nkind = "zones"\nsteps = 1\nasked = { wher = 2 }', "not a task. Did you mean where"),
        ('[[stages]]\nname = "a"\nkind = "zones"\nsteps = 1\nasked = { where = "2" }', "where in asked is '2'"),
        ("seed = ", "is not TOML"),
    ],
)
def test_a_wrong_value_is_told_in_a_sentence(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'vocabulary = "v"\noutput = "o"\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_scene_config(path)


def test_a_change_touches_its_key_alone() -> None:
    recipe = read_scene_config(SHIPPED.parents[1] / "smoke.toml", ("model.hidden = 64", 'output = "elsewhere"'))
    assert (recipe.model.hidden, recipe.model.image_size, recipe.output) == (64, 96, "elsewhere")
    with pytest.raises(UsageError, match="--set output=elsewhere is not TOML"):
        read_scene_config(SHIPPED, ("output=elsewhere",))


def test_the_command_says_what_would_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SHIPPED), "--check", "--set", "seed=5"]) == 0
    assert "patches: patches, 9 minutes, 12 images per batch" in capsys.readouterr().out
    assert main([str(SHIPPED), "--check", "--set", "captions='x'"]) == 2
    assert "captions in the recipe is not a setting" in capsys.readouterr().err


def test_stages_are_chosen_by_name() -> None:
    plan = read_scene_config(SHIPPED)
    assert [stage.name for stage in with_stages(plan, ["dialogue", "zones"]).stages] == ["zones", "dialogue"]
    with pytest.raises(UsageError, match="no stage 'names2'"):
        with_stages(plan, ["names2"])


def test_the_recipe_with_a_stem_trains_the_language_model_alone() -> None:
    plan = read_scene_config(SHIPPED.with_name("stem.toml"))
    assert plan.start.model and {stage.kind for stage in plan.stages} == {"answers"}
    assert all(stage.prototypes and stage.named for stage in plan.stages)
