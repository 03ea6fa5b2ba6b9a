"""Check that the files hold exactly the model's tensors, with their shapes, and that their values are finite.

In: the tensors of a checkpoint and the names and shapes that the model requires. Names and shapes are compared by
headers only; the error lists what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..network.configuration import VisualGLMConfig
from .checkpoint import LM_HEAD, Checkpoint
from .quantize import empty_model
from .storage.lazy_tensor import LazyTensor, is_finite

SHOWN = 8
FINE_TUNED = ("lora", "matrix_A", "matrix_B", "prefix_encoder", "ptuning", "adapter")


def expected_shapes(model_class: Any, config: VisualGLMConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the model's tensors, from a model on the meta device."""
    model = empty_model(model_class, config)
    names = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        names.pop(LM_HEAD, None)
    return names


def check(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `CheckpointError` if a tensor is missing, unexpected or misshapen."""
    faults = differences({name: tensor.shape for name, tensor in checkpoint.tensors.items()}, expected)
    if faults:
        raise CheckpointError(f"{checkpoint.folder} does not match its configuration: {'; '.join(faults)}.")


def differences(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """List what is missing, unexpected and misshapen, each as one phrase that names the tensors."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} is {list(found[name])} and should be {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    faults = []
    if missing:
        faults.append(f"{len(missing)} tensors are missing ({_listed(missing)}){_missing_hint(missing)}")
    if unexpected:
        faults.append(f"{len(unexpected)} tensors are unexpected ({_listed(unexpected)}){_unexpected_hint(unexpected)}")
    if misshapen:
        faults.append(f"{len(misshapen)} tensors have another shape ({_listed(misshapen)})")
    return faults


def finite_when_read(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint, whose tensors raise `CheckpointError` when they are read and hold NaN or infinity."""
    tensors = {
        name: replace(tensor, read=partial(_read_finite, name, tensor, checkpoint.folder))
        for name, tensor in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=tensors)


def _read_finite(name: str, tensor: LazyTensor, folder: Path) -> Tensor:
    values = tensor.read()
    if not is_finite(values):
        raise CheckpointError(f"{folder}: {name} holds NaN or infinite values. Download or train the weights again.")
    return values


def check_finite_model(model: nn.Module, source: str | Path) -> None:
    """Raise `CheckpointError` if a parameter holds NaN or infinity: training would only say that the loss does."""
    present = ((name, parameter) for name, parameter in model.named_parameters() if not parameter.is_meta)
    for _ in finite_weights(present, source):
        pass


def finite_weights(weights: Iterable[tuple[str, Tensor]], source: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by name; raise `CheckpointError` at one with NaN or infinity."""
    for name, tensor in weights:
        if not is_finite(tensor):
            raise CheckpointError(f"{source}: {name} holds NaN or infinite values. Check it with `visualglm doctor`.")
        yield name, tensor


def check_overflow(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Raise `CheckpointError` if a value is infinite in the model because its dtype has a smaller range than the file.

    Only dtypes of a smaller range are looked at, so that opening a checkpoint in its own dtype reads nothing twice.
    """
    for name, parameter in model.named_parameters():
        stored = checkpoint.tensors.get(name)
        if stored is None or type(parameter) is not nn.Parameter or parameter.is_meta:
            continue  # of another process, on a disk, or quantized by another library
        if _has_smaller_range(parameter.dtype, stored.dtype) and not is_finite(parameter):
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{checkpoint.folder}: {name} holds values that are not finite in {dtype}. Open it with dtype bfloat16 "
                "or float32, or check it with `visualglm doctor`."
            )


def _has_smaller_range(dtype: torch.dtype, stored: torch.dtype) -> bool:
    both = dtype.is_floating_point and stored.is_floating_point
    return both and torch.finfo(dtype).max < torch.finfo(stored).max


def _listed(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _missing_hint(names: list[str]) -> str:
    if all(name.startswith("image_encoder.") for name in names):
        return ", so this is a text-only ChatGLM-6B or an incomplete download"
    return ""


def _unexpected_hint(names: list[str]) -> str:
    if any(name.startswith("mixins.") for name in names):
        return ", so mixins were added to this model. Open it with the class whose __init__ adds them"
    if any(mark in name for name in names for mark in FINE_TUNED):
        return ", so this is a fine-tuned checkpoint. Merge its LoRA or P-tuning weights into the base model first"
    if any(name.endswith("weight_scale") for name in names):
        return ", so this is a quantized checkpoint. Give the unquantized one and quantize when it is open"
    return ""
