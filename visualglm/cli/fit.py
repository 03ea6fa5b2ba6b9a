"""`visualglm fit --model DIR --bits 4`: will it fit here? Only headers are read.

Exit 0 if it fits into the memory it would be opened in, else 1. The work is `checkpoints.fit`'s.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError
from . import options

if TYPE_CHECKING:
    from ..checkpoints.checkpoint import Checkpoint
    from ..checkpoints.memory_estimate import MemoryEstimate


def fit(
    model: Annotated[
        str | None, typer.Option(help="A folder of any format, or 6b for the full-size model you have not got yet.")
    ] = None,
    bits: Annotated[Literal["16", "8", "4"] | None, typer.Option(help="As --quantize; 16: not quantized.")] = None,
    quantize_vision: options.QuantizeVision = None,
    quantize_vocabulary: options.QuantizeVocabulary = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of the dialogue, picture and answer included.")] = 1024,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    as_json: options.Json = False,
) -> None:
    """Foretell the memory a model takes here. / 预测模型在本机需要多少内存。"""
    from ..checkpoints import quantization_plan
    from ..checkpoints.memory_estimate import estimate_memory
    from ..hardware.devices import resolve_device

    vision, vocabulary = options.bits(quantize_vision), options.bits(quantize_vocabulary)
    plan = None
    if bits in ("8", "4"):
        plan = quantization_plan(int(bits), vision=vision, vocabulary=vocabulary)
    elif vision or vocabulary:
        raise UsageError("--quantize-vision and --quantize-vocabulary go with --bits 8 or 4.")
    checkpoint, where = _checkpoint(model), resolve_device(device)
    found = estimate_memory(checkpoint, _dtype(checkpoint, where, dtype), plan, context)
    free = _free(where)
    needed = max(found.loading, found.running) - (0 if where == "cpu" else found.program)
    fits = free is None or needed <= free
    if as_json:
        sums = {"weights": found.weights, "loading": found.loading, "running": found.running}
        report = {**asdict(found), **sums, "device": where, "free": free, "fits": fits}
        typer.echo(json.dumps(report))
    else:
        _print(found, where, free, fits)
    if not fits:
        raise typer.Exit(1)


def _checkpoint(model: str | None) -> Checkpoint:
    from ..checkpoints import local_folder, open_checkpoint
    from ..checkpoints.memory_estimate import dummy_checkpoint
    from ..conversation import packed_model
    from ..network.configuration import VisualGLMConfig

    if model == options.SIX_B:  # its head's numbers are those of the word embeddings
        return dummy_checkpoint(VisualGLMConfig(tie_word_embeddings=True, dtype="float16"))
    return open_checkpoint(packed_model() if model is None else local_folder(model))


def _dtype(checkpoint: Checkpoint, device: str, asked: str) -> Any:
    """What `load` would compute in."""
    import torch

    from ..hardware.devices import cpu_dtype

    if asked != "auto":
        return getattr(torch, asked)
    return cpu_dtype(checkpoint.config) if device == "cpu" else checkpoint.config.dtype


def _free(device: str) -> int | None:
    import torch

    from ..hardware.memory import free_memory

    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_memory()


def _print(found: MemoryEstimate, device: str, free: int | None, fits: bool) -> None:
    from ..hardware.memory import in_words

    kind = f"{found.bits}-bit" if found.bits in (8, 4) else found.dtype
    lines = {
        "weights": (
            found.weights,
            f"{kind}: language {in_words(found.language)}, vocabulary {in_words(found.vocabulary)}, "
            f"picture side {in_words(found.image)}",
        ),
        "cache": (found.cache, f"of {found.context} tokens, {found.dtype}"),
        "work": (found.work, "of one pass"),
        "program": (found.program, "Python, torch, transformers"),
        "loading": (found.loading, "peak while it is opened"),
        "running": (found.running, "peak while it answers"),
    }
    for name, (size, meaning) in lines.items():
        typer.echo(f"{name:<8} {in_words(size):>9}  {meaning}")
    if free is not None:
        typer.echo(f"{device:<8} {in_words(free):>9}  free: it {'fits' if fits else 'does not fit'}")
