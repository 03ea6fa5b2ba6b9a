"""Files of an adapter, read and written: PEFT's layout, and the description of the base model.

    adapter_config.json, adapter_model.safetensors   PEFT's (older: adapter_model.bin); other programs read them, too
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
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints import Checkpoint, local_folder, open_checkpoint
from ..checkpoints.storage.lazy_tensor import is_finite
from ..checkpoints.storage.read import open_safetensors, open_torch, tensors_only
from ..errors import CheckpointError, UsageError
from ..files.json_object import read_object

WEIGHTS, CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"
PICKLED = "adapter_model.bin"
"""What PEFT wrote before safetensors, and still does with `safe_serialization=False`."""
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
    quantized: bool = False


def base_of(name_or_dir: str | Path) -> Base:
    """Describe a checkpoint of any layout, from its files."""
    checkpoint = open_checkpoint(local_folder(name_or_dir))
    config = checkpoint.config
    sizes = config.num_layers, config.hidden_size, config.vocab_size
    quantized = getattr(config, "quantization_config", None) is not None
    rest = digest_weights(checkpoint, QUANTIZABLE)
    return Base(str(name_or_dir), digest_weights(checkpoint), *sizes, beside_weights=rest, quantized=quantized)


def is_quantized(name_or_dir: str | Path) -> bool:
    """Return whether the checkpoint is quantized in our format."""
    return getattr(open_checkpoint(local_folder(name_or_dir)).config, "quantization_config", None) is not None


def digest_weights(checkpoint: Checkpoint, left_out: re.Pattern[str] | None = None) -> str:
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
    if (folder / CONFIG).is_file() and weights_file(folder).is_file():
        return folder
    steps = sorted(int(found.parent.name[len(CHECKPOINT) :]) for found in root.glob(f"{CHECKPOINT}*/{CONFIG}"))
    there = ", ".join(f"{root}@{number}" for number in steps)
    hint = f"give one of its checkpoints: {there}" if steps else "give the output folder of `visualglm finetune`"
    raise UsageError(f"There is no adapter in {folder} ({CONFIG} and {WEIGHTS} or {PICKLED}): {hint}.")


def weights_file(folder: Path) -> Path:
    """Return the file of an adapter's tensors; safetensors are preferred."""
    pickled = folder / PICKLED
    return pickled if pickled.is_file() and not (folder / WEIGHTS).is_file() else folder / WEIGHTS


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read PEFT's configuration of an adapter."""
    return read_object(folder / CONFIG, remedy=COPY_AGAIN)


def read_adapter_weights(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Read an adapter's weights by PEFT's names, for a model of that dtype.

    Raises:
        CheckpointError: the file is damaged, or a tensor is not of finite floating-point values, also in `dtype`.
    """
    file = weights_file(folder)
    try:
        opened = open_safetensors(file) if file.name == WEIGHTS else tensors_only(open_torch(file), file)
        tensors = {name: tensor.read().clone() for name, tensor in opened.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{file} cannot be read ({error}). Copy the adapter again.") from error
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
    """Read the description of the base model; None if another program wrote the adapter."""
    if not (folder / BASE).is_file():
        return None
    try:
        return Base(**read_object(folder / BASE, remedy=COPY_AGAIN))
    except TypeError as error:
        raise CheckpointError(
            f"{folder / BASE} was not written by `visualglm finetune` ({error}). Copy it again."
        ) from error


def write_adapter(folder: Path, config: Any, tensors: dict[str, Tensor], base: Base) -> None:
    """Write an adapter: PEFT's configuration, the tensors by PEFT's names, and the description of the base."""
    folder.mkdir(parents=True, exist_ok=True)
    config.base_model_name_or_path = base.name
    config.save_pretrained(str(folder))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / BASE).write_text(json.dumps(asdict(base), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_same_base(folder: Path, name_or_dir: str | Path) -> None:
    """Raise `CheckpointError` unless the adapter was trained on this model, before or after it was quantized."""
    made_for = read_base(folder)
    if made_for is None:
        return
    found = base_of(name_or_dir)
    if found.quantized and not made_for.beside_weights:
        raise CheckpointError(
            f"The adapter {folder} does not say whether {name_or_dir}, which is quantized, was made of its base. Open "
            "the unquantized model with --quantize."
        )
    same_rest = (found.quantized or made_for.quantized) and found.beside_weights == made_for.beside_weights
    if found.fingerprint != made_for.fingerprint and not same_rest:
        raise CheckpointError(
            f"The adapter {folder} was trained on {_described(made_for)}, but the model is {_described(found)}. Open "
            "it with --model of the one it was trained on, in any layout."
        )


def _described(base: Base) -> str:
    sizes = f"{base.num_layers} blocks of {base.hidden_size}, vocabulary {base.vocab_size}"
    return f"{base.name} ({sizes}, fingerprint {base.fingerprint})"
