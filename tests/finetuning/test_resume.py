"""Resume: from the newest complete checkpoint and on unchanged data, or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from visualglm.adapters.files import base_of
from visualglm.conversation import load
from visualglm.errors import CheckpointError, UsageError
from visualglm.finetuning.config import Finetuning
from visualglm.finetuning.evaluation import EvalQuestion
from visualglm.finetuning.resume import (
    BEFORE,
    FILES,
    RECIPE,
    checkpoint_to_resume,
    read_before,
    write_before,
    write_recipe,
)
from visualglm.finetuning.run import finetune
from visualglm.finetuning.saved_checkpoint import seal
from visualglm.finetuning.trainable_model import TRAINED, prepare_for_training
from visualglm.hub.local_folder import packed_model
from visualglm.preprocessing.prompt import Turn

from ..conftest import REFERENCE
from .conftest import BASE, rows, written

STATE = "trainer_state.json"


@pytest.fixture
def begun(recipe: Any) -> Finetuning:
    """Create a run with the names of checkpoints 2 and 4."""
    plan: Finetuning = recipe("lora")
    write_recipe(plan, Path(plan.output))
    for step in (2, 4):
        folder = Path(plan.output) / f"checkpoint-{step}"
        folder.mkdir()
        (folder / TRAINED).write_bytes(b"")
        (folder / STATE).write_text("{}")
        seal(folder)
    return plan


def resumed(plan: Finetuning) -> str:
    return str(checkpoint_to_resume(plan, Path(plan.output), resume=True)).rsplit("/", 1)[-1]


@pytest.mark.parametrize("lost", [TRAINED, STATE, "half"])
def test_a_checkpoint_that_was_not_saved_to_its_end_is_passed_over(begun: Finetuning, lost: str) -> None:
    assert resumed(begun) == "checkpoint-4"
    newest = Path(begun.output) / "checkpoint-4"
    (newest / STATE).write_text('{"global') if lost == "half" else (newest / lost).unlink()
    assert resumed(begun) == "checkpoint-2"
    shutil.rmtree(newest.parent / "checkpoint-2")
    with pytest.raises(UsageError, match="no complete checkpoint"):
        resumed(begun)


def test_resumed_weights_are_checked(recipe: Any, tmp_path: Path) -> None:
    plan = recipe("lora")
    ready = prepare_for_training(load(BASE, device="cpu").model, plan, base_of(BASE))
    ready.save_state(tmp_path, 1)
    good = load_file(tmp_path / TRAINED)
    name = min(good)
    for value, fault in (
        (good[name].index_fill(0, torch.tensor(0), float("nan")), "holds NaN or infinite values. Delete"),
        (good[name][:1], "trained with other settings"),
    ):
        save_file(good | {name: value.contiguous()}, tmp_path / TRAINED)
        with pytest.raises(UsageError, match=fault):
            ready.load_state(tmp_path)
        assert torch.equal(ready.parameters[name], good[name])
    (tmp_path / TRAINED).write_bytes(b"")
    with pytest.raises(CheckpointError, match=TRAINED):
        ready.load_state(tmp_path)
    ready.parameters[name].data.fill_(float("inf"))
    for save in (ready.save_state, ready.save_adapter):
        with pytest.raises(UsageError, match=r"stopped at step 9: .* NaN or infinite, and was not saved"):
            save(tmp_path / "new", 9)
        assert not (tmp_path / "new" / "adapter_model.safetensors").exists()


def test_without_its_recipe_a_run_cannot_go_on(begun: Finetuning) -> None:
    file = Path(begun.output) / RECIPE
    for content in ('{"data"', '{"data": "rows.json"}', None):
        file.write_text(content) if content else file.unlink()
        with pytest.raises(UsageError, match=r"has no recipe\.json"):
            resumed(begun)


def test_other_data_is_no_resumption(recipe: Any, begun: Finetuning, tmp_path: Path) -> None:
    """Neither rows nor validation may change."""
    written(tmp_path, rows(10))
    with pytest.raises(UsageError, match=r"data\.json changed since the run"):
        resumed(begun)
    stored = json.loads((Path(begun.output) / RECIPE).read_text())
    assert stored[FILES][begun.data]["bytes"] != Path(begun.data).stat().st_size

    other = written(tmp_path, rows(2), "other.json")
    both = recipe("lora", f"validation={other!r}")
    write_recipe(both, Path(both.output))
    assert resumed(both) == "checkpoint-4"
    written(tmp_path, rows(3), "other.json")
    with pytest.raises(UsageError, match=r"other\.json changed since the run"):
        resumed(both)


def test_data_that_moved_is_the_same_data(recipe: Any, begun: Finetuning, tmp_path: Path) -> None:
    """Files are compared by content, so the path may differ, as on another machine."""
    moved = tmp_path / "moved"
    moved.mkdir()
    Path(begun.data).rename(moved / "data.json")
    assert resumed(dataclasses.replace(begun, data=str(moved / "data.json"))) == "checkpoint-4"
    other = written(moved, rows(10), "other.json")
    for changes in ({"data": other}, {"data": str(moved / "data.json"), "validation": other}):
        with pytest.raises(UsageError, match="differ from the run"):
            resumed(dataclasses.replace(begun, **changes))


def test_a_base_model_that_moved_is_the_same_base(begun: Finetuning, tmp_path: Path) -> None:
    """It is known by its weights, in any layout; another one is refused."""
    moved = shutil.copytree(BASE, tmp_path / "moved")
    for same in (str(moved), str(REFERENCE / "sat")):
        assert resumed(dataclasses.replace(begun, model=same)) == "checkpoint-4"
    with pytest.raises(UsageError, match="model differ from the run"):
        resumed(dataclasses.replace(begun, model=str(packed_model())))


def test_untrained_answers_belong_to_their_questions(tmp_path: Path) -> None:
    asked = [[EvalQuestion([Turn("q", "a")], ["p.png"], "a")], [EvalQuestion([Turn("r")], [])]]
    other = [[EvalQuestion([Turn("z", "a")], ["p.png"], "a")], asked[1]]
    said = [["one"], ["two"]]
    assert read_before(tmp_path, asked) is None
    write_before(tmp_path, asked, said)
    assert read_before(tmp_path, asked) == said and read_before(tmp_path, other) is None
    (tmp_path / BEFORE).write_text(json.dumps(said))
    assert read_before(tmp_path, asked) is None and read_before(tmp_path, [[], asked[1]]) is None


def test_a_base_that_is_not_finite_is_named(recipe: Any, tmp_path: Path) -> None:
    model = load(BASE, device="cpu").model
    model.transformer.final_layernorm.bias.data[0] = float("nan")
    model.save_pretrained(tmp_path / "base")
    plan = dataclasses.replace(recipe("lora"), model=str(tmp_path / "base"), tokenizer=BASE)
    with pytest.raises(CheckpointError, match=r"final_layernorm.bias holds NaN or infinite values"):
        finetune(plan, lambda line: None, device="cpu")
