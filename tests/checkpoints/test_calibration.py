"""Calibrated scales: images say which errors count; what a linear computes on other images is nearer to exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import visualglm
from visualglm.checkpoints import convert, find_vocabulary, open_checkpoint, quantization_plan
from visualglm.checkpoints.calibration import importance
from visualglm.checkpoints.quantize import dequantized
from visualglm.cli import app
from visualglm.errors import UsageError
from visualglm.evaluation.scenes import Split, render_scene, scene_of, seeds

MINI = visualglm.packed_model()
LAYERS = "transformer.layers.0"


def drawn(split: Split, count: int = 6) -> list[object]:
    return [render_scene(scene_of(seed)) for seed, _ in zip(seeds(split), range(count), strict=False)]


def test_importance_is_the_mean_square_of_what_arrives() -> None:
    images = drawn(Split.TRAIN)
    found = importance(open_checkpoint(MINI), images, find_vocabulary(MINI))
    model = visualglm.load(device="cpu", dtype="float32")
    seen: list[torch.Tensor] = []
    model.model.image_encoder.glm_proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for image in images:
        model.conversation(image).ask("?", max_new_tokens=1)
    squares = torch.cat(seen).flatten(0, -2).pow(2).mean(0)
    torch.testing.assert_close(found["image_encoder.glm_proj"], squares + 0.01 * squares.mean(), rtol=1e-3, atol=1e-5)
    config = model.model.config
    assert found[f"{LAYERS}.mlp.dense_4h_to_h"].shape == (config.inner_hidden_size,)
    assert not any(name == "lm_head" for name in found)


def test_errors_weighed_by_other_images_are_smaller(tmp_path: Path) -> None:
    counts = importance(open_checkpoint(MINI), drawn(Split.TEST), find_vocabulary(MINI))
    original = open_checkpoint(MINI).tensors

    def error(name: str, **how: object) -> float:
        made = convert(MINI, tmp_path / name, quantize=quantization_plan(4), with_fingerprint=False, **how)
        numbers = dequantized(open_checkpoint(made)).tensors
        linears = [linear for linear in counts if linear.startswith("transformer.layers.")]
        apart = {n: numbers[f"{n}.weight"].read() - original[f"{n}.weight"].read().float() for n in linears}
        return sum(float((difference.pow(2) * counts[n]).sum()) for n, difference in apart.items())

    assert error("calibrated", calibrate=drawn(Split.TRAIN)) < 0.97 * error("plain")


def test_a_channel_that_images_leave_silent_keeps_its_weights() -> None:
    weight = torch.randn(8, 64)
    from visualglm.quantization import dequantize_weight, quantize_weight

    silent = torch.zeros(64)
    silent[:32] = 1
    stored = quantize_weight(weight, 4, 32, silent + 0.01 * silent.mean())
    assert F.mse_loss(dequantize_weight(*stored, 64), weight) < 0.01


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    def said(*flags: str) -> str:
        done = CliRunner().invoke(app, ["quantize", str(MINI), str(tmp_path / "q"), *flags])
        assert done.exit_code == 2 or isinstance(done.exception, UsageError)
        assert not (tmp_path / "q").exists()
        return str(done.exception) + done.output

    samples = str(MINI / "samples")
    assert "there are none" in said("--bits", "8", "--calibrate", samples)
    assert "does not exist. Check the path." in said("--bits", "4", "--calibrate", str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="needs ice_text"):
        importance(open_checkpoint(MINI), drawn(Split.TRAIN, 1), None)
