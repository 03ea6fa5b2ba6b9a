"""`visualglm convert SOURCE TARGET --to {native,hf,sat}`; the work is `checkpoints.convert`'s."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}

Layout = Annotated[Literal["native", "hf", "sat"], typer.Option("--to", help="Layout to write.")]
Vocabulary = Annotated[
    Path | None, typer.Option("--tokenizer", help="Vocabulary (ice_text.model) to take along, or its folder.")
]
Golden = Annotated[
    bool, typer.Option("--golden/--no-golden", help="Store what the model computes, for `visualglm doctor`.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a target that holds a checkpoint.")]
MaxShardSize = Annotated[str, typer.Option("--max-shard-size", help="Largest weights file, e.g. 2GB.")]


def convert(
    source: Annotated[str, typer.Argument(help="Folder of any layout, or a hub id.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    to: Layout = "native",
    tokenizer: Vocabulary = None,
    golden: Golden = True,
    overwrite: Overwrite = False,
    max_shard_size: MaxShardSize = "3.5GB",
) -> None:
    """Change a checkpoint's layout, bit for bit, in bounded memory."""
    from ..checkpoints import convert as change_layout

    folder = change_layout(
        source,
        target,
        to,
        with_golden=golden,
        overwrite=overwrite,
        tokenizer=tokenizer,
        max_shard_size=size_in_bytes(max_shard_size),
        report=lambda step: typer.echo(step, err=True),
    )
    typer.echo(str(folder))


def size_in_bytes(text: str) -> int:
    """`3.5GB`, `500MB`, `1000000` -> bytes.

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB|)", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--max-shard-size {text} is no size: write for example 2GB or 500MB.")
    return int(float(match[1]) * UNITS[match[2]])
