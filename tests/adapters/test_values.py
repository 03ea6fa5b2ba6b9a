"""Values of weights that come in beside a checkpoint: adapters, sat folders, merged models; and where they may work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import visualglm
from visualglm.adapters.lora import LoraMixin
from visualglm.adapters.merge import merge
from visualglm.checkpoints import convert, quantization_plan
from visualglm.cli.doctor import doctor as doctor_command
from visualglm.errors import AnswerError, CheckpointError
from visualglm.model import VisualGLMForConditionalGeneration as Model

from ..checkpoints.test_fine_tuned import FINE_TUNED
from .conftest import BASE, logits, made, opened

SAT_FILE = "1/mp_rank_00_model_states.pt"
NAN = float("nan")


def changed(folder: Path, target: Path, name: str, value: float) -> Path:
    """Return a copy of an adapter whose tensors named so have one value replaced."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "adapter_model.safetensors")
    for key, tensor in tensors.items():
        if name in key:
            tensor.view(-1)[0] = value
    save_file(tensors, target / "adapter_model.safetensors")
    return target


def changed_sat(kind: str, target: Path, name: str, value: float) -> Path:
    """Return the same for a folder that upstream's fine-tuning saved."""
    shutil.copytree(FINE_TUNED / kind, target)
    content = torch.load(target / SAT_FILE, weights_only=True)
    for key, tensor in content["module"].items():
        if name in key:
            content["module"][key] = tensor.float()
            content["module"][key].view(-1)[0] = value
    torch.save(content, target / SAT_FILE)
    return target


def sat_base(kind: str, folder: Path) -> Path:
    """Return the model that a fine-tuned folder belongs to."""
    model = Model.from_pretrained(str(FINE_TUNED / kind), merge_lora=False, dtype="auto")
    if model.config.prefix_length:
        model.del_mixin("ptuning")
        model.config.prefix_length = 0
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "name"), [("sat-lora", "matrix_A"), ("sat-ptuning", "ptuning.prefix")])
@pytest.mark.parametrize("value", [NAN, 1e6])
def test_a_sat_folder_with_bad_values_is_refused(kind: str, name: str, value: float, tmp_path: Path) -> None:
    model = visualglm.load(sat_base(kind, tmp_path / "base"), device="cpu", dtype="float16")
    folder = changed_sat(kind, tmp_path / "tuned", name, value)
    fault = "NaN or infinite" if value is NAN else "overflow in float16"
    with pytest.raises(CheckpointError, match=fault):
        model.add_adapter(folder)
    assert model.adapters == []
    with pytest.raises(CheckpointError, match=r"NaN or infinite|not finite in float16"):
        visualglm.load(folder, device="cpu", dtype="float16")
    if value is NAN:
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            convert(folder, tmp_path / "converted", with_fingerprint=False)
        assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("kind", ["one", "prefix", "projection"])
def test_values_that_overflow_in_the_models_dtype(adapters: Any, kind: str, tmp_path: Path) -> None:
    folder = changed(adapters[kind], tmp_path / "large", "", 1e6)
    with pytest.raises(CheckpointError, match=r"overflow in float16. Open the model with dtype"):
        opened(adapter=folder, dtype="float16")
    assert opened(adapter=folder, dtype="float32").adapters == ["large"]


def test_a_checkpoint_that_overflows_in_a_smaller_dtype(tmp_path: Path) -> None:
    model = opened(dtype="float32").model
    with torch.no_grad():
        model.transformer.layers[0].mlp.dense_4h_to_h.bias[0] = 1e6
    model.save_pretrained(tmp_path / "large")
    with pytest.raises(CheckpointError, match=r"dense_4h_to_h.bias holds values that are not finite in float16"):
        visualglm.load(tmp_path / "large", device="cpu", dtype="float16", tokenizer=BASE)
    visualglm.load(tmp_path / "large", device="cpu", dtype="float32", tokenizer=BASE)


def test_a_merged_weight_that_overflows_writes_nothing(tmp_path: Path) -> None:
    half = opened(dtype="float16").model
    half.save_pretrained(tmp_path / "half")
    shutil.copy(Path(BASE) / "ice_text.model", tmp_path / "half")
    folder = made(tmp_path / "adapter", str(tmp_path / "half"), "lora", size=900.0)
    with pytest.raises(CheckpointError, match="cannot be merged, because a weight would be NaN or infinite"):
        merge(tmp_path / "half", folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    mixin = LoraMixin.new(half, 2)
    for name, value in half.named_parameters():
        if "lora_" in name:
            value.data.fill_(900.0)
    with pytest.raises(CheckpointError, match="would be NaN or infinite with its LoRA"):
        mixin.merge_lora()
    assert not mixin.is_merged and all(value.isfinite().all() for value in half.parameters())


def test_what_peft_pickled_opens_and_merges(adapters: Any, tmp_path: Path) -> None:
    for kind in ("one", "prefix"):
        folder = tmp_path / kind
        shutil.copytree(adapters[kind], folder)
        torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
        assert torch.equal(logits(opened(adapter=folder)), logits(opened(adapter=adapters[kind])))
    merge(BASE, tmp_path / "one", tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    torch.save({"code": CheckpointError}, tmp_path / "one" / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="holds more than numbers"):
        opened(adapter=tmp_path / "one")


def test_an_adapter_of_a_quantized_base_works_on_the_16_bit_one(adapters: Any, tmp_path: Path) -> None:
    small = convert(BASE, tmp_path / "small", quantize=quantization_plan(8), with_fingerprint=False)
    folder = made(tmp_path / "adapter", str(small), "lora")
    on_both = [logits(visualglm.load(place, device="cpu", adapter=folder)) for place in (BASE, small)]
    bare = logits(opened())
    assert (on_both[0] - on_both[1]).abs().mean() < 0.1 * (on_both[0] - bare).abs().mean()
    merge(BASE, folder, tmp_path / "merged")
    other = opened().model
    for value in other.parameters():
        value.data += 0.01
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="trained on"):
        visualglm.load(tmp_path / "other", device="cpu", tokenizer=BASE, adapter=folder)


def doctor(*arguments: str) -> tuple[int, dict[str, str]]:
    app = typer.Typer()
    app.command()(doctor_command)
    done = CliRunner().invoke(app, ["--model", BASE, "--json", *arguments])
    checks = json.loads(done.stdout)["checks"]
    return done.exit_code, {check["name"]: f"{check['result']}: {check['detail']}" for check in checks}


@pytest.mark.parametrize("kind", ["one", "prefix", "qformer"])
def test_doctor_checks_an_adapter(adapters: Any, kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    code, checks = doctor("--adapter", str(adapters[kind]))
    assert code == 0 and "fits the model" in checks["adapter"]
    assert not [str(one.message) for one in recwarn if "meta parameter" in str(one.message)]
    code, checks = doctor("--adapter", str(changed(adapters[kind], tmp_path / "bad", "", NAN)))
    assert code == 1 and "NaN or infinite" in checks["adapter"] and checks["numbers"].startswith("passed")


def test_doctor_on_adapters_that_do_not_belong(adapters: Any, tmp_path: Path) -> None:
    tuned = str(FINE_TUNED / "sat-lora")
    assert "fine-tuned on another model" in doctor("--adapter", tuned)[1]["adapter"]
    assert "There is no adapter" in doctor("--adapter", str(tmp_path))[1]["adapter"]
    shutil.copytree(adapters["one"], tmp_path / "rank")
    config = tmp_path / "rank" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 3}))
    assert "should be [3, " in doctor("--adapter", str(tmp_path / "rank"))[1]["adapter"]
    assert doctor("--adapter", str(tmp_path / "rank"))[0] == 1


def test_generate_itself_refuses_logits_that_are_not_finite(adapters: Any) -> None:
    model = opened().model
    model.lm_head.weight.data[0] = NAN
    ids = torch.tensor([[5, model.config.gmask_token_id, model.config.bos_token_id]])
    for how in ({"do_sample": False}, {"do_sample": True}, {"do_sample": False, "num_beams": 2}):
        with pytest.raises(AnswerError, match="NaN or infinity instead of an answer"):
            model.generate(ids, max_new_tokens=3, **how)
    kept = model.generate(ids, max_new_tokens=3, do_sample=False, remove_invalid_values=True, eos_token_id=None)
    assert kept.shape == (1, 6)
