"""Equality with upstream's code: every position and every stored intermediate, in both layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..conftest import REFERENCE, Reference, open_reference

CASES = Reference().names
VISION = 1e-5
RELATIVE = 1.3e-6
"""Rounding of float32: features of the ViT reach 6, where processors differ by more than `VISION`."""
LANGUAGE = 1e-4


@pytest.fixture(scope="module", params=["hf", "sat"])
def opened(request: pytest.FixtureRequest) -> Any:
    # sat files compute with exact frequencies in float32; the reference set's main cases are the Hugging Face ones
    return open_reference(request.param, rotary_frequencies="half")


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_and_logits(opened: Any, reference: Reference, case: str) -> None:
    inputs = reference.inputs(case)
    with torch.no_grad():
        output = opened(**inputs, output_hidden_states=True)
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    difference = (output.logits - reference.tensor(case, "logits"))[real]
    assert difference.abs().max() < LANGUAGE
    assert torch.isfinite(output.logits).all()
    if reference.has(case, "hidden_states"):
        assert (torch.stack(output.hidden_states) - reference.tensor(case, "hidden_states")).abs().max() < LANGUAGE


@pytest.mark.parametrize("case", [case for case in CASES if Reference().has(case, "pixel_values")])
def test_vision_intermediates(opened: Any, reference: Reference, case: str) -> None:
    seen: dict[str, torch.Tensor] = {}
    handles = _listen(opened.image_encoder, seen)
    with torch.no_grad():
        seen["vision.image_embeds"] = opened.encode_images(reference.tensor(case, "pixel_values"))
    for handle in handles:
        handle.remove()
    names = {key.split("/")[1] for key in reference.arrays.files if key.startswith(f"{case}/vision.")}
    assert names == set(seen)
    for name in names:
        torch.testing.assert_close(seen[name], reference.tensor(case, name), rtol=RELATIVE, atol=VISION, msg=name)


def _listen(encoder: Any, seen: dict[str, torch.Tensor]) -> list[Any]:
    def keep(name: str) -> Any:
        return lambda module, args, output: seen.update({name: output[0] if isinstance(output, tuple) else output})

    vit, qformer = encoder.vit.transformer, encoder.qformer.transformer
    first = vit.layers[0].register_forward_pre_hook(
        lambda module, args: seen.update({"vision.vit_embeddings": args[0]})
    )
    handles = [first, encoder.vit.register_forward_hook(keep("vision.vit_output"))]
    handles.append(encoder.qformer.register_forward_hook(keep("vision.qformer_output")))
    for part, layers in (("vit", vit.layers), ("qformer", qformer.layers)):
        handles += [
            layer.register_forward_hook(keep(f"vision.{part}_layer_{index}")) for index, layer in enumerate(layers)
        ]
    return handles


@pytest.mark.parametrize("case", [case for case in CASES if Reference().has(case, "position_ids")])
def test_positions(model: Any, reference: Reference, case: str) -> None:
    from visualglm.network.rotary import prefix_positions

    inputs = reference.inputs(case)
    mask = inputs.get("attention_mask")
    positions = prefix_positions(inputs["input_ids"], mask, model.config).rotary
    real = torch.ones_like(inputs["input_ids"]).bool() if mask is None else mask.bool()
    expected = reference.tensor(case, "position_ids").transpose(1, 2)[real]
    assert torch.equal(positions.transpose(1, 2)[real], expected)


@pytest.mark.parametrize("case", [case for case in CASES if Reference().has(case, "greedy_ids")])
@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_greedy_ids(opened: Any, reference: Reference, case: str, cache: str) -> None:
    inputs = reference.inputs(case)
    expected = reference.tensor(case, "greedy_ids")
    how = {"use_cache": False} if cache == "none" else {"cache_implementation": cache}
    output = opened.generate(
        **inputs, do_sample=False, max_new_tokens=len(expected), eos_token_id=None, output_logits=True,
        return_dict_in_generate=True, **how,
    )  # fmt: skip
    assert torch.equal(output.sequences[0, inputs["input_ids"].shape[1] :], expected)
    logits = torch.stack(output.logits, dim=1)[0]
    assert (logits - reference.tensor(case, "greedy_step_logits")).abs().max() < LANGUAGE


def test_left_padded_batch_generates_as_the_reference(opened: Any, reference: Reference) -> None:
    inputs = reference.inputs("batch2")
    output = opened.generate(**inputs, do_sample=False, max_new_tokens=6, eos_token_id=None)
    assert torch.equal(output[:, inputs["input_ids"].shape[1] :], reference.tensor("batch2", "generate_6"))


def test_training_loss(opened: Any, reference: Reference) -> None:
    inputs = reference.inputs("train_pair")
    with torch.no_grad():
        loss = opened(**inputs, labels=reference.tensor("train_pair", "labels")).loss
    assert (loss - reference.tensor("train_pair", "loss")).abs() < 1e-4


@pytest.mark.parametrize("case", [case for case in CASES if Reference().has(case, "logits_sat_fp32_exact_inv_freq")])
def test_sat_files_use_sats_frequencies(reference: Reference, case: str) -> None:
    sat = open_reference("sat")
    assert sat.config.rotary_frequencies == "by_dtype"
    inputs = reference.inputs(case)
    with torch.no_grad():
        logits = sat(**inputs).logits[:, -1]
    assert (logits - reference.tensor(case, "logits_sat_fp32_exact_inv_freq")).abs().max() < LANGUAGE


@pytest.mark.parametrize("case", [case for case in CASES if Reference().has(case, "logits_fp16_cpu_last")])
def test_float16_is_near_upstreams_float16(reference: Reference, case: str) -> None:
    half = open_reference(dtype=torch.float16)
    inputs = reference.inputs(case)
    with torch.no_grad():
        logits = half(**inputs).logits[:, -1].float()
    assert (logits - reference.tensor(case, "logits_fp16_cpu_last").float()).abs().max() < 0.05


def test_reference_files_stay_small() -> None:
    assert sum(file.stat().st_size for file in REFERENCE.rglob("*") if file.is_file()) <= 6_000_000
