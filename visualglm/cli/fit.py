"""`visualglm fit`: estimate the memory of a model from its file headers.

The exit code is 0 if it fits into the free memory of the device, else 1. The estimate is made by
`checkpoints/memory_estimate.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError
from . import options
from .grouped_help import model_option, performance_option

if TYPE_CHECKING:
    from ..checkpoints.checkpoint import Checkpoint
    from ..checkpoints.memory_estimate import MemoryEstimate


def fit(
    model: Annotated[
        str | None,
        model_option(
            envvar=options.MODEL_VARIABLE,
            metavar="MODEL",
            help="Checkpoint folder of any format, or 6b for the full size (no download).",
        ),
    ] = None,
    bits: Annotated[
        Literal["16", "8", "4"] | None,
        performance_option(
            "--quantize", "--bits", metavar="16|8|4", help="Bits of the language model's weights; 16: not quantized."
        ),
    ] = None,
    quantize_vision: options.QuantizeVision = None,
    quantize_vocabulary: options.QuantizeVocabulary = None,
    context: Annotated[
        int, performance_option(min=1, metavar="N", help="Tokens of the whole chat, image and answer included.")
    ] = 1024,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    as_json: options.Json = False,
) -> None:
    """Estimate the memory a model needs on this machine. / 估算模型在本机需要多少内存。

    Example: visualglm fit --model 6b --quantize 4
    """
    options.check_device(device)
    options.check_model(None if model == options.SIX_B else model)
    from ..checkpoints import quantization_plan
    from ..checkpoints.memory_estimate import estimate_memory
    from ..hardware.devices import resolve_device

    vision, vocabulary = options.parse_bits(quantize_vision), options.parse_bits(quantize_vocabulary)
    plan = None
    if bits in ("8", "4"):
        plan = quantization_plan(int(bits), vision=vision, vocabulary=vocabulary)
    elif vision or vocabulary:
        raise UsageError("--quantize-vision and --quantize-vocabulary need --quantize 8 or 4. Add it.")
    checkpoint, device = _open_headers(model), resolve_device(device)
    estimate = estimate_memory(checkpoint, _resolve_dtype(checkpoint, device, dtype), plan, context)
    free = _free_memory(device)
    needed = max(estimate.loading, estimate.running) - (0 if device == "cpu" else estimate.program)
    fits = free is None or needed <= free
    if as_json:
        sums = {"weights": estimate.weights, "loading": estimate.loading, "running": estimate.running}
        report = {**asdict(estimate), **sums, "device": device, "free": free, "fits": fits}
        typer.echo(json.dumps(report))
    else:
        _print(estimate, device, free, fits)
    if not fits:
        raise typer.Exit(1)


def _open_headers(model: str | None) -> Checkpoint:
    from ..checkpoints import local_folder, open_checkpoint
    from ..checkpoints.memory_estimate import dummy_checkpoint
    from ..hub.local_folder import packed_model
    from ..network.configuration import VisualGLMConfig

    if model == options.SIX_B:  # its LM head is tied to the word embeddings
        return dummy_checkpoint(VisualGLMConfig(tie_word_embeddings=True, dtype="float16"))
    return open_checkpoint(packed_model() if model is None else local_folder(model))


def _resolve_dtype(checkpoint: Checkpoint, device: str, dtype: str) -> Any:
    """Return the dtype that `load` would compute in."""
    import torch

    from ..hardware.devices import cpu_dtype

    if dtype != "auto":
        return getattr(torch, dtype)
    return cpu_dtype(checkpoint.config) if device == "cpu" else checkpoint.config.dtype


def _free_memory(device: str) -> int | None:
    import torch

    from ..hardware.memory import free_memory

    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_memory()


def _print(estimate: MemoryEstimate, device: str, free: int | None, fits: bool) -> None:
    from ..hardware.memory import in_words

    kind = f"{estimate.bits}-bit" if estimate.bits in (8, 4) else estimate.dtype
    lines = {
        "weights": (
            estimate.weights,
            f"{kind}: language {in_words(estimate.language)}, vocabulary {in_words(estimate.vocabulary)}, "
            f"vision {in_words(estimate.image)}",
        ),
        "cache": (estimate.cache, f"KV cache of {estimate.context} tokens, {estimate.dtype}"),
        "work": (estimate.work, "activations of one forward pass"),
        "program": (estimate.program, "Python, torch, transformers"),
        "loading": (estimate.loading, "peak while loading"),
        "running": (estimate.running, "peak while answering"),
    }
    for name, (size, meaning) in lines.items():
        typer.echo(f"{name:<8} {in_words(size):>9}  {meaning}")
    if free is not None:
        typer.echo(f"{device:<8} {in_words(free):>9}  free: the model {'fits' if fits else 'does not fit'}")
