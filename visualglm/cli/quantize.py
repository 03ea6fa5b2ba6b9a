"""`visualglm quantize`: write an 8-bit or 4-bit checkpoint. `checkpoints/convert.py` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import require_extra
from . import options
from .convert import Fingerprint, MaxShardSize, Overwrite, Vocabulary, size_in_bytes
from .evaluate import TaskName, format_comparison, report_progress
from .grouped_help import data_option, output_option, performance_option

MAX_IMAGES = 32
"""Images to calibrate with: they are encoded in one batch."""


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Checkpoint folder of any format, or a hub id; not quantized.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New folder, in the native format.")],
    bits: Annotated[
        Literal["8", "4"],
        performance_option(metavar="8|4", help="Bits of the language model's weights."),
    ],
    group_size: Annotated[
        int,
        performance_option(metavar="N", help="4-bit weights that share one scale."),
    ] = 32,
    quantize_vision: options.QuantizeVision = None,
    quantize_vocabulary: options.QuantizeVocabulary = None,
    calibrate: Annotated[
        str | None,
        data_option(
            metavar="SOURCE",
            help="Images (folder, glob or list) like yours: 4-bit scales are chosen to suit them.",
        ),
    ] = None,
    evaluate: Annotated[
        TaskName | None,
        output_option(
            metavar="TASK",
            help="Also print what the bits cost on a task of `visualglm evaluate` (drawn scenes), for example scenes.",
        ),
    ] = None,
    tokenizer: Vocabulary = None,
    fingerprint: Fingerprint = True,
    overwrite: Overwrite = False,
    max_shard_size: MaxShardSize = "3.5GB",
) -> None:
    """Quantize a checkpoint to 8 or 4 bits. / 把权重量化为 8 位或 4 位。

    Memory stays bounded: tensors are quantized one by one.

    Example: visualglm quantize visualglm-6b quantized --bits 4
    """
    if evaluate is not None:
        require_extra("eval", "--evaluate", "matplotlib", "pycocoevalcap", "scipy")
    from ..checkpoints import convert, quantization_plan

    plan = quantization_plan(
        int(bits),
        group_size=group_size,
        vision=options.parse_bits(quantize_vision),
        vocabulary=options.parse_bits(quantize_vocabulary),
    )
    folder = convert(
        source,
        target,
        quantize=plan,
        calibrate=[] if calibrate is None else _calibration_images(calibrate),
        with_fingerprint=fingerprint,
        overwrite=overwrite,
        tokenizer=tokenizer,
        max_shard_size=size_in_bytes(max_shard_size),
        report=lambda step: typer.echo(step, err=True),
    )
    typer.echo(str(folder))
    if evaluate is not None:
        _print_cost(evaluate, source, folder, tokenizer)


def _print_cost(task: str, source: str, target: Path, tokenizer: Path | None) -> None:
    """Compare the quantized folder with its source on a task."""
    from ..evaluation.model_comparison import compare_models

    flags = {source: options.Flags(source, None if tokenizer is None else str(tokenizer)), str(target): options.Flags(str(target))}
    comparison = compare_models(task, {name: flag.open_model for name, flag in flags.items()}, report_progress)
    typer.echo(format_comparison(comparison))


def _calibration_images(source: str) -> list[Any]:
    """Return at most `MAX_IMAGES` images, evenly spaced: paths, or bytes where one file holds several."""
    from ..captioning.sources import read_source

    items = read_source(source)
    chosen = items[:: -(-len(items) // MAX_IMAGES)]
    return [item.read() if item.inside else item.file for item in chosen]
