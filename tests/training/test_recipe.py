"""Recipes: the shipped one reads, and a misspelt key is an error that names the nearest known one."""

from __future__ import annotations

from pathlib import Path

import pytest

from visualglm.errors import UsageError
from visualglm.training.recipe import read_recipe

SHIPPED = Path(__file__).parents[2] / "recipes" / "mini" / "recipe.toml"


def test_the_shipped_recipe_reads_and_begins_with_its_command() -> None:
    recipe = read_recipe(SHIPPED)
    assert [stage.kind for stage in recipe.stages][:3] == ["patches", "zones", "text"]
    assert SHIPPED.read_text(encoding="utf-8").startswith("# visualglm pretrain recipes/mini/")


@pytest.mark.parametrize(
    ("line", "named"),
    [('outptu = "x"', "output"), ("[model]\nlayer = 3", "layers"), ("[[stages]]\nminute = 3", "minutes")],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'vocabulary = "v"\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=f"did you mean {named}"):
        read_recipe(path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('output = "runs"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="vocabulary"):
        read_recipe(path)
