"""Your own images: read, shuffled reproducibly, trained from a checkpoint."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from visualglm.errors import UsageError
from visualglm.hub.local_folder import packed_model
from visualglm.pretraining import batches
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
    rows = [data._row(place) for place in range(58)]  # type: ignore[attr-defined]
    assert len(set(rows)) == 58 and {0, 50}.isdisjoint(rows)
    assert set(run.batches(run.recipe.stages[0], 0, validation=True).rows) == {0, 50}  # type: ignore[attr-defined]


@torch.no_grad()
def test_blocks_have_few_shapes_and_padding_changes_no_loss(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trainer(plan(captions, tmp_path, "dialogue"), lambda line: None)
    losses = []
    for columns in ((batches.PROMPT_COLUMNS, batches.ANSWER_COLUMNS), (1, 1)):
        monkeypatch.setattr(batches, "PROMPT_COLUMNS", columns[0])
        monkeypatch.setattr(batches, "ANSWER_COLUMNS", columns[1])
        batch = next(iter(run.batches(run.recipe.stages[0], 0)))
        assert all(b.start % columns[0] == 0 == b.targets.shape[1] % columns[1] for b in batch.rows)
        embeds = run.model.image_encoder(batch.pixel_values)[0]
        losses.append(float(run.objective.eval().language_loss(batch, embeds)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_rows_of_other_tools_are_read(captions: Path, tmp_path: Path) -> None:
    """The formats and paths of fine-tuning, in any file that it reads."""
    image = str(captions.with_name("1.png"))
    rows = [
        {"image": image, "zh": "一张图。"},
        {"file_name": image, "text": "A red square."},
        {"img": f"file://{image}", "prompt": "Which?", "label": "The first."},
        {
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}],
            "image": image,
        },
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"data": rows}), encoding="utf-8")
    run = Trainer(plan(file, tmp_path / "run", "dialogue"), lambda line: None)
    data = run.batches(run.recipe.stages[0], 0)
    read = [data._read(number, random.Random(0)) for number in range(4)]  # type: ignore[attr-defined]
    assert all(path == Path(image) for path, _ in read)
    assert [(one.language, one.answer) for _, one in read] == [
        ("zh", "一张图。"), ("en", "A red square."), ("en", "The first."), ("en", "A.")
    ]  # fmt: skip
    assert next(iter(data)).pixel_values.shape[0] == 4


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
        ("{", "row 1: "),
        ('{"image": "a.png"}', "row 1: .*no known format"),
        ('{"image": "a.png", "zh": "一只猫。", "question": "Which?"}', "row 1: .*no known format"),
        ('{"image": "a.png", "en": 1}', "row 1: en is not a text"),
        ('{"image": ["a.png", "a.png"], "en": "Two."}', "row 1: it has 2 images"),
        ('{"image": "b.png", "en": "A cat."}', r"row 1: the image b\.png is neither"),
        ("[1]", "row 1: it is not a JSON object"),
        ('{"image": "a.png", "en": "A cat."}', "too few rows. Give at least two"),
    ],
)
def test_a_broken_row_is_named(captions: Path, tmp_path: Path, text: str, said: str) -> None:
    shutil.copyfile(captions.with_name("1.png"), tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    run = Trainer(plan(tmp_path / "rows.jsonl", tmp_path / "run", "dialogue"), lambda line: None)
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
