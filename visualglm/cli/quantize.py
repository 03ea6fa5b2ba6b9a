"""`visualglm quantize`: write an 8-bit or 4-bit checkpoint. `checkpoints/convert.py` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import require_extra
from . import options
from .convert import CheckpointFlags
from .evaluate import TaskName, format_comparison, report_progress
from .grouped_help import data_option, output_option, performance_option

MAX_IMAGES = 32
"""Images to calibrate with: they are encoded in one batch."""


@options.with_flags
def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Unquantized checkpoint folder of any format, or a hub id.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New folder, in the native format.")],
    bits: Annotated[
        Literal["8", "4"],
        performance_option("--quantize", "--bits", metavar="8|4", help="Bits of the language model's weights."),
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
            help="Images (folder, glob or list) like those you will ask about; used to choose 4-bit scales.",
        ),
    ] = None,
    evaluate: Annotated[
        TaskName | None,
        output_option(
            metavar="TASK",
            help="Then compare the result with SOURCE on a task of `visualglm evaluate` (drawn scenes), e.g. scenes.",
        ),
    ] = None,
    *,
    flags: CheckpointFlags,
) -> None:
    """Quantize a checkpoint to 8 or 4 bits. / 把权重量化为 8 位或 4 位。

    Memory stays bounded: tensors are quantized one by one.

    Example: visualglm quantize visualglm-6b quantized --quantize 4
    """
    options.check_model(source)
    if evaluate is not None:
        require_extra("eval", "--evaluate", "matplotlib", "pycocoevalcap", "scipy")
    from ..checkpoints import quantization_plan

    plan = quantization_plan(
        int(bits),
        group_size=group_size,
        vision=options.parse_bits(quantize_vision),
        vocabulary=options.parse_bits(quantize_vocabulary),
    )
    images = [] if calibrate is None else _calibration_images(calibrate)
    flags.write(source, target, quantize=plan, calibrate=images)
    if evaluate is not None:
        _print_cost(evaluate, source, target, None if flags.tokenizer is None else str(flags.tokenizer))


def _print_cost(task: str, source: str, target: Path, tokenizer: str | None) -> None:
    """Compare the quantized folder with its source on a task."""
    from ..evaluation.model_comparison import compare_models

    models = {source: options.Flags(source, tokenizer), str(target): options.Flags(str(target))}
    openers = {name: flags.open_model for name, flags in models.items()}
    typer.echo(format_comparison(compare_models(task, openers, report_progress)))


def _calibration_images(source: str) -> list[Any]:
    """Return at most `MAX_IMAGES` images, evenly spaced: paths, or bytes where one file holds several."""
    from ..captioning.sources import read_source

    items = read_source(source)
    chosen = items[:: -(-len(items) // MAX_IMAGES)]
    return [item.read() if item.inside else item.file for item in chosen]
