"""Files of an adapter: PEFT's layout, and the description of the base model.

    adapter_config.json, adapter_model.safetensors   PEFT's; other programs that know PEFT read them
    base.json                                        the base's name, sizes and fingerprint, and the step

`DIR` is the finished adapter, `DIR@40` its checkpoint of step 40. The fingerprint samples every weight of the base's
files, so it is equal for every layout of the same weights, and different for a model that was trained further.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import Checkpoint, local_folder, open_checkpoint
from ..checkpoints.storage.read import open_safetensors
from ..errors import CheckpointError, UsageError
from ..files.json_object import read_object

WEIGHTS, CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"
CHECKPOINT = "checkpoint-"
SAMPLED = 64
QUANTIZABLE = re.compile(r".*\.weight(_scale)?")
"""Pattern of weights that `visualglm quantize` may change; biases and position tables stay as they are."""
NOT_COMPARED = ("lm_head.",)  # tied in some layouts, stored twice in others
COPY_AGAIN = "Copy the adapter again."


@dataclass(frozen=True)
class Base:
    """The base model of an adapter, and the number of training steps.

    `beside_weights` is the fingerprint without the `.weight`s, which the quantized model has too.
    """

    name: str
    fingerprint: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    step: int = 0
    beside_weights: str = ""


def base_of(name_or_dir: str | Path) -> Base:
    """Describe a checkpoint of any layout, from its files."""
    checkpoint = open_checkpoint(local_folder(name_or_dir))
    config = checkpoint.config
    sizes = config.num_layers, config.hidden_size, config.vocab_size
    return Base(str(name_or_dir), fingerprint(checkpoint), *sizes, beside_weights=fingerprint(checkpoint, QUANTIZABLE))


def is_quantized(name_or_dir: str | Path) -> bool:
    """Return whether the checkpoint is quantized in our format."""
    return getattr(open_checkpoint(local_folder(name_or_dir)).config, "quantization_config", None) is not None


def fingerprint(checkpoint: Checkpoint, left_out: re.Pattern[str] | None = None) -> str:
    """Return 16 hex digits from a sample of every weight, except those whose names match `left_out`."""
    digest = hashlib.sha256()
    for name in sorted(name for name in checkpoint.tensors if not name.startswith(NOT_COMPARED)):
        if left_out is not None and left_out.fullmatch(name):
            continue
        numbers = checkpoint.tensors[name].read().flatten()
        sampled = numbers[:: max(1, len(numbers) // SAMPLED)][:SAMPLED].to(torch.float32)
        digest.update(name.encode() + sampled.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def split_step(place: str | Path) -> tuple[Path, str]:
    """Split `DIR@STEP` into folder and step; `DIR`, even one with an @ in its name, has no step."""
    folder, at, step = str(place).rpartition("@")
    return (Path(folder), step) if at and step.isdigit() else (Path(place), "")


def adapter_folder(place: str | Path) -> Path:
    """Return the folder with the adapter's files for `DIR` or `DIR@STEP`.

    Raises:
        UsageError: there is none; the message names the existing steps.
    """
    root, step = split_step(place)
    folder = root / f"{CHECKPOINT}{step}" if step else root
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        return folder
    steps = sorted(int(found.parent.name[len(CHECKPOINT) :]) for found in root.glob(f"{CHECKPOINT}*/{CONFIG}"))
    there = ", ".join(f"{root}@{number}" for number in steps)
    hint = f"give one of its checkpoints: {there}" if steps else "give the output folder of `visualglm finetune`"
    raise UsageError(f"There is no adapter in {folder} ({CONFIG} and {WEIGHTS}): {hint}.")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read PEFT's configuration of an adapter."""
    return read_object(folder / CONFIG, remedy=COPY_AGAIN)


def read_adapter_weights(folder: Path) -> dict[str, Tensor]:
    """Read an adapter's weights by PEFT's names.

    Raises:
        CheckpointError: the file is damaged, or a tensor is not of finite floating-point values.
    """
    try:
        tensors = {name: tensor.read().clone() for name, tensor in open_safetensors(folder / WEIGHTS).items()}
    except CheckpointError as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read ({error}). Copy the adapter again.") from error
    require_finite(tensors, folder / WEIGHTS)
    return tensors


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise `CheckpointError` unless every tensor of the file holds finite floating-point values."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{path}: {name} is {dtype}, not floating point. Copy or train the adapter again.")
        if not bool(tensor.float().isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinite values. Copy or train the adapter again.")


def read_base(folder: Path) -> Base | None:
    """Read the description of the base model; None if another program wrote the adapter."""
    if not (folder / BASE).is_file():
        return None
    try:
        return Base(**read_object(folder / BASE, remedy=COPY_AGAIN))
    except TypeError as error:
        raise CheckpointError(
            f"{folder / BASE} was not written by `visualglm finetune` ({error}). Copy it again."
        ) from error


def write_base(folder: Path, base: Base) -> None:
    (folder / BASE).write_text(json.dumps(asdict(base), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_same_base(folder: Path, name_or_dir: str | Path) -> None:
    """Raise `CheckpointError` unless the adapter was trained on this model, or on the one this was quantized from."""
    made_for = read_base(folder)
    if made_for is None:
        return
    found, quantized = base_of(name_or_dir), is_quantized(name_or_dir)
    if quantized and not made_for.beside_weights:
        raise CheckpointError(
            f"The adapter {folder} does not say whether {name_or_dir}, which is quantized, was made of its base. Open "
            "the unquantized model with --quantize."
        )
    same_rest = quantized and found.beside_weights == made_for.beside_weights
    if found.fingerprint != made_for.fingerprint and not same_rest:
        raise CheckpointError(
            f"The adapter {folder} was trained on {_described(made_for)}, but the model is {_described(found)}. Open "
            "it with --model of the one it was trained on, in any layout."
        )


def _described(base: Base) -> str:
    sizes = f"{base.num_layers} blocks of {base.hidden_size}, vocabulary {base.vocab_size}"
    return f"{base.name} ({sizes}, fingerprint {base.fingerprint})"
