"""An adapter on disk: PEFT's layout, and beside it which model it was made for.

    adapter_config.json, adapter_model.safetensors   PEFT's (older: adapter_model.bin); other programs read them, too
    base.json                                        the base's name, sizes and fingerprint, and the step

`DIR` is the finished adapter, `DIR@40` its checkpoint of step 40. The fingerprint samples every weight of the base's
files, so it is the same in every layout of the same numbers, and another for a model that was trained further. Knows
nothing about networks.
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
from ..checkpoints.storage.lazy_tensor import is_finite
from ..checkpoints.storage.read import open_safetensors, open_torch, tensors_only
from ..errors import CheckpointError, UsageError
from ..files.untrusted_files import read_json

WEIGHTS, CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"
PICKLED = "adapter_model.bin"
"""What PEFT wrote before safetensors, and still does with `safe_serialization=False`."""
CHECKPOINT = "checkpoint-"
SAMPLED = 64
QUANTIZABLE = re.compile(r".*\.weight(_scale)?")
"""What `visualglm quantize` may have changed; biases and tables of positions stay as they were."""
NOT_COMPARED = ("lm_head.",)  # tied in some layouts and stored twice in others


@dataclass(frozen=True)
class Base:
    """The model that an adapter belongs to, and how far it was trained.

    `beside_weights` is the fingerprint without the `.weight`s, so that of the quantized model too.
    """

    name: str
    fingerprint: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    step: int = 0
    beside_weights: str = ""
    quantized: bool = False


def base_of(name_or_dir: str | Path) -> Base:
    """The description of a checkpoint of any layout, from its files."""
    checkpoint = open_checkpoint(local_folder(name_or_dir))
    config = checkpoint.config
    sizes = config.num_layers, config.hidden_size, config.vocab_size
    quantized = getattr(config, "quantization_config", None) is not None
    rest = fingerprint(checkpoint, QUANTIZABLE)
    return Base(str(name_or_dir), fingerprint(checkpoint), *sizes, beside_weights=rest, quantized=quantized)


def is_quantized(name_or_dir: str | Path) -> bool:
    """Whether the checkpoint holds stored bits."""
    return getattr(open_checkpoint(local_folder(name_or_dir)).config, "quantization_config", None) is not None


def fingerprint(checkpoint: Checkpoint, left_out: re.Pattern[str] | None = None) -> str:
    """Sixteen hex digits that a sample of every weight gives, but for names that `left_out` matches."""
    digest = hashlib.sha256()
    for name in sorted(name for name in checkpoint.tensors if not name.startswith(NOT_COMPARED)):
        if left_out is not None and left_out.fullmatch(name):
            continue
        numbers = checkpoint.tensors[name].read().flatten()
        sampled = numbers[:: max(1, len(numbers) // SAMPLED)][:SAMPLED].to(torch.float32)
        digest.update(name.encode() + sampled.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def split_step(place: str | Path) -> tuple[Path, str]:
    """`DIR@STEP` -> the folder and the digits of the step; `DIR`, even one with an @ in its name, has none."""
    folder, at, step = str(place).rpartition("@")
    return (Path(folder), step) if at and step.isdigit() else (Path(place), "")


def adapter_folder(place: str | Path) -> Path:
    """`DIR` or `DIR@STEP` -> the folder with the adapter's files.

    Raises:
        UsageError: there is none; the message names the steps that are there.
    """
    root, step = split_step(place)
    folder = root / f"{CHECKPOINT}{step}" if step else root
    if (folder / CONFIG).is_file() and weights_file(folder).is_file():
        return folder
    steps = sorted(int(found.parent.name[len(CHECKPOINT) :]) for found in root.glob(f"{CHECKPOINT}*/{CONFIG}"))
    there = ", ".join(f"{root}@{number}" for number in steps)
    hint = f"give one of its checkpoints: {there}" if steps else "give the output folder of `visualglm finetune`"
    raise UsageError(f"There is no adapter in {folder} ({CONFIG} and {WEIGHTS} or {PICKLED}): {hint}.")


def weights_file(folder: Path) -> Path:
    """The file of an adapter's tensors; safetensors are preferred."""
    pickled = folder / PICKLED
    return pickled if pickled.is_file() and not (folder / WEIGHTS).is_file() else folder / WEIGHTS


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """PEFT's configuration of an adapter."""
    return _json(folder / CONFIG)


def read_adapter_weights(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """An adapter's numbers by PEFT's names, for a model of that dtype.

    Raises:
        CheckpointError: the file is damaged, or a tensor is not of finite floating-point values, also in `dtype`.
    """
    file = weights_file(folder)
    try:
        opened = open_safetensors(file) if file.name == WEIGHTS else tensors_only(open_torch(file), file)
        tensors = {name: tensor.read().clone() for name, tensor in opened.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{file} cannot be read ({error}): copy the adapter again.") from error
    require_finite(tensors, file, dtype)
    return tensors


def require_finite(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Raise `CheckpointError` unless every tensor of the file holds finite floating-point values, also in `dtype`."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            fault = f"is {_named(tensor.dtype)}, not floating point. Copy or train the adapter again"
        elif not is_finite(tensor):
            fault = "holds NaN or infinite values. Copy or train the adapter again"
        elif not is_finite(tensor.to(dtype)):
            fault = f"holds values that overflow in {_named(dtype)}. Open the model with dtype bfloat16 or float32"
        else:
            continue
        raise CheckpointError(f"{path}: {name} {fault}.")


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def read_base(folder: Path) -> Base | None:
    """Which model it was made for; None where another program wrote the adapter."""
    if not (folder / BASE).is_file():
        return None
    try:
        return Base(**_json(folder / BASE))
    except TypeError as error:
        raise CheckpointError(f"{folder / BASE} is not what `visualglm finetune` writes: {error}.") from error


def write_base(folder: Path, base: Base) -> None:
    (folder / BASE).write_text(json.dumps(asdict(base), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_same_base(folder: Path, name_or_dir: str | Path) -> None:
    """Raises `CheckpointError` unless the adapter was made for this model, before or after it was quantized."""
    made_for = read_base(folder)
    if made_for is None:
        return
    found = base_of(name_or_dir)
    if found.quantized and not made_for.beside_weights:
        raise CheckpointError(
            f"the adapter {folder} does not say whether {name_or_dir}, which is quantized, was made of its base: open "
            "the unquantized model with --quantize."
        )
    same_rest = (found.quantized or made_for.quantized) and found.beside_weights == made_for.beside_weights
    if found.fingerprint != made_for.fingerprint and not same_rest:
        raise CheckpointError(
            f"the adapter {folder} was trained on {_described(made_for)}, but the model is {_described(found)}: open "
            "it with --model of the one it was trained on, in any layout."
        )


def _described(base: Base) -> str:
    sizes = f"{base.num_layers} blocks of {base.hidden_size}, vocabulary {base.vocab_size}"
    return f"{base.name} ({sizes}, fingerprint {base.fingerprint})"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path} cannot be read ({reason}): copy the adapter again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no settings: copy the adapter again.")
    return content
