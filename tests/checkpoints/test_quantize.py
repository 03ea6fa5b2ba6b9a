"""Quantized checkpoints: quantized while loading, in place and by command are the same model; saved, it comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from typer.testing import CliRunner

import visualglm
import visualglm.auto
from visualglm.checkpoints import convert, open_checkpoint, quantization_plan, save_sat, verify
from visualglm.checkpoints.quantize import dequantized
from visualglm.cli import app
from visualglm.errors import CheckpointError, QuantizationError, UsageError
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.hooks import BaseMixin
from visualglm.quantization import QuantizationConfig, QuantizedLinear

from ..conftest import Reference, open_reference
from .conftest import ODD_CONFIG, REFERENCE, random_state, write_hf

ALL = {"vision": 8, "vocabulary": 8}


def assert_same_state(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, numbers in first.items():
        assert numbers.dtype == second[name].dtype and torch.equal(numbers, second[name]), name


def logits(model: Any, reference: Reference) -> torch.Tensor:
    case = next(name for name in reference.names if reference.has(name, "pixel_values"))
    with torch.no_grad():
        return model(**reference.inputs(case), use_cache=False).logits.float()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("options", [{}, ALL], ids=["language", "all"])
def test_while_loading_in_place_and_by_command_are_one(
    bits: int, options: dict[str, int], tmp_path: Path, reference: Reference
) -> None:
    loading = open_reference(quantization_config=quantization_plan(bits, **options))
    in_place = open_reference().quantize(bits, **options)
    assert_same_state(loading, in_place)
    assert torch.equal(logits(loading, reference), logits(in_place, reference))
    flags = [item for key, value in options.items() for item in (f"--quantize-{key}", str(value))]
    done = CliRunner().invoke(
        app, ["quantize", str(REFERENCE / "hf"), str(tmp_path / "q"), "--bits", str(bits), *flags]
    )
    assert done.exit_code == 0, done.output
    stored = VisualGLMForConditionalGeneration.from_pretrained(tmp_path / "q", dtype=torch.float32)
    assert_same_state(loading, stored)
    assert all(check.result != "failed" for check in verify(tmp_path / "q"))


@pytest.mark.parametrize("layout", ["hf", "sat"])
def test_eight_bits_are_near_the_original(layout: str, reference: Reference) -> None:
    wanted = logits(open_reference(layout), reference)
    found = logits(open_reference(layout, quantization_config=quantization_plan(8, **ALL)), reference)
    assert (found - wanted).norm() < 0.15 * wanted.norm()


def test_a_saved_model_comes_back_through_the_auto_classes(tmp_path: Path, reference: Reference) -> None:
    made = open_reference().quantize(4, **ALL)
    made.save_pretrained(tmp_path / "saved")
    stored = json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]
    assert stored["quant_method"] == "visualglm" and stored["group_size"] == 32
    assert stored["modules"]["transformer.layers.*.attention.dense"] == 4 and stored["modules"]["lm_head"] == 8
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert_same_state(made, again)
    assert torch.equal(logits(made, reference), logits(again, reference))


def test_a_tied_head_reads_the_embeddings_table(tmp_path: Path, reference: Reference) -> None:
    plain = open_reference(quantization_config=quantization_plan(8))
    tied = open_reference(quantization_config=quantization_plan(8, vocabulary=8))
    assert plain.config.tie_word_embeddings and not isinstance(plain.lm_head, QuantizedLinear)
    assert plain.lm_head.weight is plain.transformer.word_embeddings.weight
    assert tied.lm_head.weight is tied.transformer.word_embeddings.weight and tied.lm_head.weight.dtype == torch.int8
    assert not any(name.startswith("lm_head") for name in tied.state_dict())
    cast = tied.to(torch.bfloat16)
    assert logits(cast, reference).isfinite().all() and cast.transformer.word_embeddings.weight.dtype == torch.int8
    cast.tie_weights()


def test_an_untied_head_has_a_table_of_its_own(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "m", ODD_CONFIG, random_state(ODD_CONFIG))
    model = visualglm.load(folder, quantize=8, quantize_vocabulary=8).model
    assert isinstance(model.lm_head, QuantizedLinear)
    assert not torch.equal(model.lm_head.weight, model.transformer.word_embeddings.weight)


def test_odd_widths_and_their_numbers_back(tmp_path: Path) -> None:
    """48, 80, 24 and 32 inputs: groups of 32 do not divide them all."""
    folder = write_hf(tmp_path / "m", ODD_CONFIG, random_state(ODD_CONFIG))
    made = convert(folder, tmp_path / "q", quantize=quantization_plan(4, vision=4), with_fingerprint=False)
    numbers, originals = dequantized(open_checkpoint(made)).tensors, open_checkpoint(folder).tensors
    assert numbers.keys() == originals.keys()
    for name, tensor in originals.items():
        assert numbers[name].shape == tensor.shape
        apart = (numbers[name].read().float() - tensor.read().float()).norm()
        assert apart <= 0.13 * tensor.read().float().norm(), name
    model = VisualGLMForConditionalGeneration.from_pretrained(made)
    assert model.transformer.layers[0].attention.dense.in_features == 48


def test_the_packed_model_answers_in_every_form(tmp_path: Path) -> None:
    image = sorted((visualglm.packed_model() / "samples").glob("*.png"))[0]
    flags = ["--bits", "8", "--quantize-vision", "8", "--quantize-vocabulary", "8"]
    assert (
        CliRunner().invoke(app, ["quantize", str(visualglm.packed_model()), str(tmp_path / "q"), *flags]).exit_code == 0
    )
    size = sum(file.stat().st_size for file in (tmp_path / "q").glob("*.safetensors"))
    assert size < 0.7 * (visualglm.packed_model() / "model.safetensors").stat().st_size  # the stem stays as it is
    stored = visualglm.load(tmp_path / "q").conversation(image).ask("What is in the picture?").text
    made = visualglm.load(quantize=8, quantize_vision=8, quantize_vocabulary=8)
    assert made.conversation(image).ask("What is in the picture?").text == stored
    done = CliRunner().invoke(app, ["ask", str(image), "What is in the picture?", "--model", str(tmp_path / "q")])
    assert done.output.strip() == stored


@pytest.mark.parametrize("bits", [8, 4])
def test_one_thread_or_two_answer_alike(bits: int) -> None:
    image = sorted((visualglm.packed_model() / "samples").glob("*.png"))[0]
    model, answers, before = visualglm.load(quantize=bits), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            answers.append(model.conversation(image).ask("这张图片里有什么？").text)
    finally:
        torch.set_num_threads(before)
    assert len(set(answers)) == 1


def test_a_transformers_configuration_without_modules_takes_the_usual_ones() -> None:
    model = VisualGLMForConditionalGeneration.from_pretrained(
        REFERENCE / "hf", quantization_config=QuantizationConfig(bits=4, group_size=16)
    )
    assert model.transformer.layers[1].mlp.dense_h_to_4h.group_size == 16
    assert not isinstance(model.lm_head, QuantizedLinear)


def test_what_is_refused(tmp_path: Path) -> None:
    model = open_reference().quantize(8)
    model.save_pretrained(tmp_path / "q")
    for attempt in (
        lambda: visualglm.load(tmp_path / "q", quantize=4),
        lambda: convert(tmp_path / "q", tmp_path / "other", quantize=quantization_plan(4)),
    ):
        with pytest.raises(UsageError, match="quantized already"):
            attempt()
    with pytest.raises(UsageError, match="8 bits already"):
        model.quantize(4)
    with pytest.raises(UsageError, match="upstream's layouts have no place"):
        convert(tmp_path / "q", tmp_path / "other", "hf")
    with pytest.raises(QuantizationError, match="8 or 4"):
        visualglm.load(quantize=3)
    with pytest.raises(UsageError, match="require quantize"):
        visualglm.load(quantize_vision=8)
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    config["quantization_config"]["zero_points"] = True
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantizationError, match="zero_points"):
        visualglm.load(tmp_path / "q")


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    state = random_state(ODD_CONFIG)
    state["transformer.layers.1.mlp.dense_h_to_4h.weight"][3, 3] = float("nan")
    folder = write_hf(tmp_path / "m", ODD_CONFIG, state)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.dense_h_to_4h cannot be quantized: .*NaN or infinite"):
        visualglm.load(folder, quantize=4)


def test_in_place_it_is_all_or_nothing() -> None:
    model = open_reference()
    model.transformer.layers[1].mlp.dense_h_to_4h.weight.data[3, 3] = float("inf")
    with pytest.raises(QuantizationError, match=r"layers\.1\.mlp\.dense_h_to_4h has weights that are NaN"):
        model.quantize(8)
    assert not any(isinstance(module, QuantizedLinear) for module in model.modules())
    assert getattr(model.config, "quantization_config", None) is None


def test_mixins_stay_at_work(reference: Reference) -> None:
    class Twice(BaseMixin):
        def word_embedding_forward(self, ids: Any, *, old_impl: Any, layer_id: int) -> Any:
            return 2 * old_impl(ids)

        def final_forward(self, hidden: Any, *, old_impl: Any, layer_id: int) -> Any:
            return 2 * old_impl(hidden)

    model = open_reference()
    model.add_mixin("twice", Twice())
    wanted = logits(model, reference)
    found = logits(model.quantize(8, vocabulary=8), reference)
    assert (found - wanted).norm() < 0.15 * wanted.norm()


def test_no_folder_in_sats_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no place for them"):
        save_sat(open_reference().quantize(8), tmp_path / "sat")
    assert not (tmp_path / "sat").exists()


def test_bitsandbytes_own_configuration_works_too(reference: Reference) -> None:
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["image_encoder", "lm_head"]
    )
    model = open_reference(quantization_config=config)
    assert type(model.transformer.layers[0].mlp.dense_h_to_4h).__name__ == "Linear4bit"
    assert logits(model, reference).isfinite().all()
