"""Resolution of device and dtype names against this machine."""

from __future__ import annotations

import torch

from ..errors import UsageError
from ..network.configuration import VisualGLMConfig


def cpu_dtype(config: VisualGLMConfig) -> torch.dtype:
    """Choose float32 for up to a billion parameters of the language model, else bfloat16 (half the memory, faster)."""
    blocks = 12 * config.num_layers * config.hidden_size**2
    return torch.float32 if blocks + 2 * config.vocab_size * config.hidden_size <= 1e9 else torch.bfloat16


def validate_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """Return `dtype` if it is `auto` or a supported float dtype (or its name).

    Raises:
        UsageError: the dtype is not supported.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in ("auto", "float32", "bfloat16", "float16", "float64"):
        raise UsageError(f"Unsupported dtype {name!r}. Use auto, float32, bfloat16 or float16.")
    return dtype


def resolve_device(name: str, compile: bool = False) -> str:
    """Return a device of this machine; `auto` chooses cuda, else mps, else cpu.

    Raises:
        UsageError: the name is unknown, this machine has no such device, or `compile` is set for the CPU.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, is_present in present.items() if is_present)
    available = ", ".join([*(kind for kind in present if present[kind]), "auto"])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"Unknown device {name!r}. Available here: {available}.") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not present.get(device.type, False) or (device.index or 0) >= count:
        reason = " (this torch is a CPU build)" if device.type == "cuda" and not torch.backends.cuda.is_built() else ""
        raise UsageError(f"Device {name!r} is not available{reason}. Available here: {available}.")
    if compile and str(device) == "cpu":
        raise UsageError("--compile needs a GPU. Remove it on a CPU.")
    return str(device)
