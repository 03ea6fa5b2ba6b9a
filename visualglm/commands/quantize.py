"""commands/quantize: `visualglm quantize SOURCE TARGET --bits {8,4}`; the work is `checkpoints.convert`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options
from .convert import Golden, MaxShardSize, Overwrite, Vocabulary, size_in_bytes


def quantize(
    source: Annotated[str, typer.Argument(help="Folder of any layout, or a hub id; not quantized.")],
    target: Annotated[Path, typer.Argument(help="New folder, in our own layout.")],
    bits: Annotated[Literal["8", "4"], typer.Option(help="Of the language model's weights.")],
    group_size: Annotated[int, typer.Option(help="How many weights share a scale in 4 bits.")] = 32,
    quantize_vision: options.QuantizeVision = None,
    quantize_vocabulary: options.QuantizeVocabulary = None,
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
        with_golden=golden,
        overwrite=overwrite,
        tokenizer=tokenizer,
        max_shard_size=size_in_bytes(max_shard_size),
        report=lambda step: typer.echo(step, err=True),
    )
    typer.echo(str(folder))
