"""`visualglm quantize SOURCE TARGET --bits {8,4}`; the work is `checkpoints.convert`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import options
from .convert import Golden, MaxShardSize, Overwrite, Vocabulary, size_in_bytes

MOST_PICTURES = 32
"""Of those to calibrate with; they are read together."""


def quantize(
    source: Annotated[str, typer.Argument(help="Folder of any layout, or a hub id; not quantized.")],
    target: Annotated[Path, typer.Argument(help="New folder, in our own layout.")],
    bits: Annotated[Literal["8", "4"], typer.Option(help="Of the language model's weights.")],
    group_size: Annotated[int, typer.Option(help="How many weights share a scale in 4 bits.")] = 32,
    quantize_vision: options.QuantizeVision = None,
    quantize_vocabulary: options.QuantizeVocabulary = None,
    calibrate: Annotated[
        str | None,
        typer.Option(help="Pictures (folder, glob, list) like yours: the errors of 4 bits go where they cost least."),
    ] = None,
    tokenizer: Vocabulary = None,
    golden: Golden = True,
    overwrite: Overwrite = False,
    max_shard_size: MaxShardSize = "3.5GB",
) -> None:
    """Write a checkpoint in 8 or 4 bits, tensor by tensor."""
    from ..checkpoints import convert, quantization_plan

    plan = quantization_plan(
        int(bits),
        group_size=group_size,
        vision=options.bits(quantize_vision),
        vocabulary=options.bits(quantize_vocabulary),
    )
    folder = convert(
        source,
        target,
        quantize=plan,
        calibrate=[] if calibrate is None else _some_pictures(calibrate),
        with_golden=golden,
        overwrite=overwrite,
        tokenizer=tokenizer,
        max_shard_size=size_in_bytes(max_shard_size),
        report=lambda step: typer.echo(step, err=True),
    )
    typer.echo(str(folder))


def _some_pictures(source: str) -> list[Any]:
    """Files, or bytes where a file holds several; evenly chosen where there are many."""
    from ..captioning.sources import read_source

    items = read_source(source)
    chosen = items[:: -(-len(items) // MOST_PICTURES)]
    return [item.read() if item.inside else item.file for item in chosen]
