"""Where a model computes, and in which dtype: names that a user gives -> what this machine has.

Knows nothing about files or models.
"""

from __future__ import annotations

import torch

from ..errors import UsageError
from ..network.configuration import VisualGLMConfig


def cpu_dtype(config: VisualGLMConfig) -> torch.dtype:
    """float32 for a language model of up to a billion parameters, bfloat16 above: half the memory, and faster."""
    blocks = 12 * config.num_layers * config.hidden_size**2
    return torch.float32 if blocks + 2 * config.vocab_size * config.hidden_size <= 1e9 else torch.bfloat16


def validate_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """A float dtype by name or itself, or `auto`.

    Raises:
        UsageError: it is none that the model can compute in.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in ("auto", "float32", "bfloat16", "float16", "float64"):
        raise UsageError(f"dtype {name} is none to compute in: choose auto, float32, bfloat16 or float16.")
    return dtype


def resolve_device(name: str, compile: bool = False) -> str:
    """`auto` becomes cuda, else mps, else cpu; any other name must be a device of this machine.

    Raises:
        UsageError: torch knows no such device, the machine has none, or the work is to be compiled and it is the CPU.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    there = ", ".join(kind for kind in present if present[kind])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is none: choose from {there}, or auto.") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not present.get(device.type, False) or (device.index or 0) >= count:
        raise UsageError(f"device {name!r} is not on this machine: choose from {there}, or auto.")
    if compile and str(device) == "cpu":
        raise UsageError("compile makes a graph of a GPU's work, and there is none: leave it out on a CPU.")
    return str(device)
