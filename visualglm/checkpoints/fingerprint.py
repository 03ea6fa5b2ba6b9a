"""Record what a checkpoint computes when it is converted, and compare with the record later.

`fingerprint.json` holds the fixed input (two rows with the same words and different images), the last position's
logits (an even sample of the vocabulary), each block's root mean square, and a checksum of every tensor under our
names and row orders, so it is the same for all layouts of the same weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files.json_object import read_object
from ..network.configuration import VisualGLMConfig
from .checkpoint import Checkpoint
from .layerwise_forward import ForwardRecord, run
from .storage.lazy_tensor import LazyTensor, bits

FILE = "fingerprint.json"
FORMAT_VERSION = 1
LOGITS_KEPT = 2048
WORDS = 12
TOLERANCE = 1e-3  # of the largest stored value; another machine's float32 sums differ by about 1e-5


def fixed_input(config: VisualGLMConfig) -> tuple[Tensor, Tensor]:
    """Build ids [2, T] (image, a dozen words, the end of a prompt) and two different images [2, 3, H, W].

    Everything is computed from formulas, so it is the same on every machine and in every version of torch.
    """
    special = {config.image_token_id, config.unk_token_id, config.pad_token_id, config.mask_token_id}
    special |= {config.gmask_token_id, config.bos_token_id, config.eos_token_id}
    words = [index for index in range(config.vocab_size) if index not in special]
    chosen = [words[(index * 7919) % len(words)] for index in range(1, WORDS + 1)]
    placeholders = [config.image_token_id] * config.image_length
    ids = torch.tensor([[*chosen[:2], *placeholders, *chosen[2:], config.gmask_token_id, config.bos_token_id]])
    size, channels = config.vision.image_size, config.vision.in_channels
    channel, row, column = torch.meshgrid(torch.arange(channels), torch.arange(size), torch.arange(size), indexing="ij")
    waves = [1.7 * channel + 0.11 * row + 0.23 * column, 0.9 * channel + 0.31 * row - 0.05 * column]
    return ids.repeat(2, 1), torch.stack([torch.sin(wave.double()).float() for wave in waves])


def measure(checkpoint: Checkpoint) -> ForwardRecord:
    """Run the layer-by-layer pass over the fixed input."""
    return run(checkpoint, *fixed_input(checkpoint.config))


def checksum(tensor: LazyTensor) -> str:
    """Return the SHA-256 of dtype, shape and bits."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    digest.update(bits(tensor.read()).numpy().data)
    return digest.hexdigest()


def record(checkpoint: Checkpoint, measured: ForwardRecord | None = None) -> dict[str, Any]:
    """Compute the contents of `fingerprint.json` from the checkpoint."""
    logits, fingerprints = measured or measure(checkpoint)
    stride = math.ceil(logits.shape[1] / LOGITS_KEPT)
    return {
        "format_version": FORMAT_VERSION,
        "input_ids": fixed_input(checkpoint.config)[0][0].tolist(),
        "logits_stride": stride,
        "logits": logits[:, ::stride].tolist(),
        "blocks": fingerprints,
        "tensors": {name: checksum(tensor) for name, tensor in checkpoint.tensors.items()},
    }


def read_fingerprint(folder: Path) -> dict[str, Any] | None:
    """Read the stored record; None if there is none.

    Raises:
        CheckpointError: it cannot be read, or a newer version of this package wrote it.
    """
    if not (folder / FILE).exists():
        return None
    stored = read_object(folder / FILE)
    if stored.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / FILE} has format_version {stored.get('format_version')!r}, this visualglm reads "
            f"{FORMAT_VERSION}. Update visualglm, or convert the checkpoint again."
        )
    if not _well_formed(stored):
        raise CheckpointError(
            f"{folder / FILE} is incomplete (it lacks logits, blocks or tensors). Get it again, or delete it."
        )
    return stored


def _well_formed(stored: dict[str, Any]) -> bool:
    try:
        rows = [_numbers(values) for values in stored["blocks"].values()]
        logits, tensors = _numbers(stored["logits"]), stored["tensors"]
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        OverflowError,
    ):  # malformed values raise many kinds of errors
        return False
    return logits.dim() == 2 and all(row.dim() == 1 for row in rows) and isinstance(tensors, dict)


def _numbers(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def write_fingerprint(folder: Path, fingerprint: dict[str, Any]) -> None:
    """Write a record into the folder."""
    (folder / FILE).write_text(json.dumps(fingerprint) + "\n", encoding="utf-8")


def differences(stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """List how a new record differs from the stored one, nearest to the cause first."""
    return [
        *changed_tensors(stored, found["tensors"]),
        *_changed_blocks(stored, found),
        *_changed_logits(stored, found),
    ]


def changed_tensors(stored: dict[str, Any], found: dict[str, str]) -> list[str]:
    """List the names of tensors whose checksums changed."""
    names = [name for name, value in stored["tensors"].items() if found.get(name) != value]
    if not names:
        return []
    return [f"{len(names)} tensors changed since the record was made, first {names[0]}"]


def _changed_blocks(stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    for name, values in stored["blocks"].items():
        if not _near(_numbers(values), _numbers(found["blocks"].get(name, []))):
            return [f"the output of {name} differs from the record (and maybe of blocks after it)"]
    return []


def _changed_logits(stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    then, now = _numbers(stored["logits"]), _numbers(found["logits"])
    if _near(then, now):
        return []
    apart = (then - now).abs().max().item() if then.shape == now.shape else math.inf
    return [f"the logits differ from the record (by up to {apart:.3g})"]


def _near(then: Tensor, now: Tensor) -> bool:
    if then.shape != now.shape or then.numel() == 0:
        return False
    return bool(((then - now).abs() <= TOLERANCE * then.abs().max()).all())
