"""Your own images: read, shuffled reproducibly, trained from a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from visualglm.conversation import packed_model
from visualglm.errors import UsageError
from visualglm.pretraining.config import Checkpoints, PretrainingConfig, Stage, read_pretraining_config
from visualglm.pretraining.trainer import Trainer

FULL = Path(__file__).parents[2] / "recipes" / "6b.toml"


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    lines = []
    for number in range(60):
        Image.new("RGB", (40, 30), (4 * number, 100, 50)).save(folder / f"{number}.png")
        line = {"image": f"{number}.png", "zh": f"第{number}张图。", "en": f"Picture {number}."}
        lines.append(line if number % 3 else {"image": line["image"], "question": "Which?", "answer": line["en"]})
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return folder / "rows.jsonl"


def plan(captions: Path, output: Path, *kinds: str) -> PretrainingConfig:
    stages = tuple(Stage(kind, kind, steps=1, images=4, learning_rate=1e-4) for kind in kinds)
    recipe = PretrainingConfig(str(output), str(packed_model() / "ice_text.model"), captions=str(captions), workers=0)
    return replace(recipe, bfloat16=False, threads=1, start=Checkpoints(model=str(packed_model())), stages=stages)


def test_a_checkpoint_goes_through_the_stages_on_own_images(captions: Path, tmp_path: Path) -> None:
    Trainer(plan(captions, tmp_path, "representation", "alignment", "dialogue"), lambda line: None).run()
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert weights.keys() == load_file(packed_model() / "model.safetensors").keys()


def test_every_line_is_met_once_a_round_and_validation_lines_never(captions: Path, tmp_path: Path) -> None:
    run = Trainer(plan(captions, tmp_path, "dialogue"), lambda line: None)
    data = run.batches(run.recipe.stages[0], 0)
    rows = [data._row(place)["image"] for place in range(58)]  # type: ignore[attr-defined]
    assert len(set(rows)) == 58
    assert {"0.png", "50.png"}.isdisjoint(rows)
    assert {row["image"] for row in run.batches(run.recipe.stages[0], 0, validation=True).rows} == {"0.png", "50.png"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        ("", 'album = "runs/pictures"', "album in the recipe is not a setting. Did you mean .*visualglm_lab.training"),
        ("", "", "captions.*visualglm_lab.training"),
        ("", '[[stages]]\nname = "a"\nkind = "patches"\nsteps = 1', "Unknown kind of stage patches.*visualglm_lab"),
        ("", '[[stages]]\nname = "a"\nkind = "dialogue"\nzones_after = 1', "zones_after in stages .*visualglm_lab"),
        (
            'captions = "c"',
            '[[stages]]\nname = "a"\nkind = "dialogue"\nmost = 1',
            "most in stages.*Did you mean [a-z_]+.$",
        ),
    ],
)
def test_settings_of_scenes_are_refused_with_where_they_belong(tmp_path: Path, data: str, line: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'output = "o"\nvocabulary = "v"\n{data}\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_pretraining_config(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Line 1 .* is not JSON"),
        ('{"image": "a.png"}', "Line 1 .* needs image, and either zh or en"),
        ('{"image": "a.png", "zh": "一只猫。", "question": "Which?"}', "Line 1 .* needs image, and either zh or en"),
        ('{"image": "a.png", "en": 1}', "Line 1 .* needs image, and either zh or en"),
        ("[]", "Line 1 .* needs image, and either zh or en"),
        ('{"image": "a.png", "en": "A cat."}', "too few lines. Give at least two"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    run = Trainer(plan(tmp_path / "rows.jsonl", tmp_path, "dialogue"), lambda line: None)
    with pytest.raises(UsageError, match=said):
        run.batches(run.recipe.stages[0], 0)


def test_two_lines_are_enough(captions: Path, tmp_path: Path) -> None:
    two = captions.with_name("two.jsonl")
    two.write_text("\n".join(captions.read_text(encoding="utf-8").splitlines()[:2]), encoding="utf-8")
    run = Trainer(plan(two, tmp_path, "dialogue"), lambda line: None)
    for validation in (False, True):
        assert next(iter(run.batches(run.recipe.stages[0], 0, validation))).rows


def test_the_full_size_recipe_reads() -> None:
    recipe = read_pretraining_config(FULL)
    assert recipe.start.model and recipe.sharding == "fsdp" and recipe.gradient_checkpointing
    assert [stage.kind for stage in recipe.stages] == ["representation", "alignment", "dialogue"]
