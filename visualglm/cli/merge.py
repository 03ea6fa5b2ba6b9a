"""`visualglm merge BASE ADAPTER TARGET`; the work is `adapters.merge`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .convert import Layout, Overwrite


def merge(
    base: Annotated[str, typer.Argument(help="The model that was trained on: a folder of any layout, or a hub id.")],
    adapter: Annotated[str, typer.Argument(help="What `visualglm finetune` wrote: its folder, or FOLDER@STEP.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    to: Layout = "native",
    overwrite: Overwrite = False,
) -> None:
    """Make one model of a base and its adapter."""
    from ..adapters.merge import merge as put_together

    options.quiet_transformers()
    report = put_together(
        base, adapter, target, to, overwrite=overwrite, report=lambda step: typer.echo(step, err=True)
    )
    typer.echo(str(report))
