"""An adapter that is refused leaves the model as it was, and says why in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from visualglm.errors import CheckpointError, UsageError

from .conftest import logits, opened


def without_a_matrix(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(max(tensors))
    save_file(tensors, folder / "adapter_model.safetensors")


def with_first_matrix(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        name = min(tensors)
        save_file(tensors | {name: change(tensors[name])}, folder / "adapter_model.safetensors")

    return damage


def with_setting(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))

    return change


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a matrix is missing": without_a_matrix,
    "another rank": with_setting(r=3),
    "no such layer": with_setting(target_modules=".*nothing"),
    "one NaN": with_first_matrix(lambda matrix: matrix.index_fill(0, torch.tensor(0), float("nan"))),
    "one infinity": with_first_matrix(lambda matrix: matrix.index_fill(0, torch.tensor(0), float("inf"))),
    "integers": with_first_matrix(lambda matrix: matrix.to(torch.int32)),
    "no numbers": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b""),
    "noise": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"xx" * 100),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_adapter_changes_nothing(adapters: Any, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(adapters["one"], folder)
    DAMAGE[damage](folder)
    model = opened()
    before, modules = logits(model), [type(module) for module in model.model.modules()]
    with pytest.raises(CheckpointError):
        model.add_adapter(folder)
    assert model.adapters == [] and torch.equal(logits(model), before)
    assert [type(module) for module in model.model.modules()] == modules
    model.add_adapter(adapters["two"])
    wanted = logits(model)
    with pytest.raises((CheckpointError, UsageError)):
        model.add_adapter(folder)
    assert model.adapters == ["two"] and torch.equal(logits(model), wanted)
    model.use_adapter(None)
    assert torch.equal(logits(model), before)
    assert model.add_adapter(adapters["one"]) == "one" and not torch.equal(logits(model), before)


@pytest.mark.parametrize("part", ["projection", "qformer"])
@pytest.mark.parametrize("whole_first", [True, False])
def test_adapters_that_cannot_lie_beside_each_other(adapters: Any, part: str, whole_first: bool) -> None:
    first, second = sorted((part, f"{part}-lora"), reverse=not whole_first)
    model = opened()
    before = logits(model)
    model.add_adapter(adapters[first])
    wanted = logits(model)
    with pytest.raises(UsageError, match="cannot be combined with the attached adapters"):
        model.add_adapter(adapters[second])
    assert model.adapters == [first] and torch.equal(logits(model), wanted)
    model.use_adapter(None)
    assert torch.equal(logits(model), before)


def test_a_damaged_prefix_and_a_part_in_bits_are_one_sentence(adapters: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(adapters["prefix"], folder)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        opened(adapter=folder)
    with pytest.raises(UsageError, match="--quantize-vision out"):
        opened(adapter=adapters["projection"], quantize=8, quantize_vision=8)
