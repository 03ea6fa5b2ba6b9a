"""An 8-bit base: adapters train and answer on it; methods that would train its weights are rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from visualglm.adapters.manager import attach_adapter
from visualglm.checkpoints import convert, quantization_plan
from visualglm.conversation import load
from visualglm.errors import UsageError
from visualglm.finetuning import run
from visualglm.finetuning.config import read_finetuning
from visualglm.finetuning.trainer import read_metrics
from visualglm.finetuning.training_memory import estimate_training_memory
from visualglm.quantization import QuantizedLinear

from .conftest import BASE, IMAGES, written

pytestmark = pytest.mark.slow

SETTINGS = ("batch=8", "validation_share=0.0", "answers=0", "max_new_tokens=1", "save_steps=1000")
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the small model in 8 bits, as `visualglm quantize` writes it."""
    folder = tmp_path_factory.mktemp("stored") / "8"
    convert(BASE, folder, quantize=quantization_plan(8, vision=8), with_fingerprint=False)
    return str(folder)


def plan(folder: Path, model: str, method: str, *changes: str) -> Any:
    settings = (*SETTINGS, *changes)
    return read_finetuning(None, settings, data=written(folder), output=str(folder / "out"), method=method, model=model)


@pytest.mark.parametrize("method, rate", [("lora", 0.01), ("ptuning", 0.4)])
def test_an_adapter_learns_beside_8_bits(
    stored: str, tmp_path: Path, models: list[Any], method: str, rate: float
) -> None:
    recipe = plan(tmp_path, stored, method, "epochs=40", f"learning_rate={rate}")
    said: list[str] = []
    assert run.finetune(recipe, said.append, device="cpu")
    losses = [row["loss"] for row in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < 0.6 * losses[0]
    ((ready, _),) = models
    linears = [module for module in ready.model.modules() if isinstance(module, QuantizedLinear)]
    held = sum(linear.in_features * linear.out_features for linear in linears)
    assert estimate_training_memory(ready, 64).weights > held
    numbers = sum(weight.numel() for weight in load(BASE, device="cpu").model.parameters())
    trained = sum(ready.counts().values())
    assert any(f"{trained:,} of {numbers + trained:,} " in line for line in said)

    opened = load(stored, device="cpu", adapter=tmp_path / "out")
    here = opened.ask(IMAGES[0], "图0？", **GREEDY).text
    opened.use_adapter(None)
    assert here != opened.ask(IMAGES[0], "图0？", **GREEDY).text


def test_its_matrices_fit_the_16_bit_base(stored: str, tmp_path: Path) -> None:
    recipe = plan(tmp_path, stored, "lora", "epochs=2", "parts.vision='lora'", "parts.projection='lora'")
    assert run.finetune(recipe, lambda line: None, device="cpu")
    model = load(BASE, device="cpu").model
    attach_adapter(model, tmp_path / "out", "adapter0")
    numbers = load_file(tmp_path / "out" / "adapter_model.safetensors")
    laid = {name.replace(".adapter0.", ".") for name, _ in model.named_parameters() if ".lora_" in name}
    assert laid == {name.removeprefix("base_model.model.") for name in numbers}
    assert any("image_encoder.vit" in name for name in laid) and any("glm_proj" in name for name in laid)


@pytest.mark.parametrize(
    "method, changes, fault",
    [
        ("full", (), "8 bits already, and method full"),
        ("qlora", (), "8 bits already, and method qlora"),
        ("lora", ("parts.vision='full'",), "parts.vision is full"),
        ("lora", ("lora.dora=true",), "lora.dora"),
    ],
)
def test_what_would_train_stored_bits_is_refused(
    stored: str, tmp_path: Path, method: str, changes: tuple[str, ...], fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        run.finetune(plan(tmp_path, stored, method, *changes), lambda line: None, device="cpu")
    assert not (tmp_path / "out").exists()
