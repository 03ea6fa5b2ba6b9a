"""commands/merge: `visualglm merge BASE ADAPTER TARGET`; the work is `adapters.merge`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def merge(
    base: Annotated[str, typer.Argument(help="The model that was trained on: a folder of any layout, or a hub id.")],
    adapter: Annotated[str, typer.Argument(help="What `visualglm finetune` wrote: its folder, or FOLDER@STEP.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    to: Annotated[Literal["native", "hf", "sat"], typer.Option("--to", help="Layout to write.")] = "native",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a target that holds a checkpoint.")] = False,
) -> None:
    """Make one model of a base and its adapter."""
    import transformers

    from ..adapters.merge import merge as put_together

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    report = put_together(
        base, adapter, target, to, overwrite=overwrite, report=lambda step: typer.echo(step, err=True)
    )
    typer.echo(str(report))
