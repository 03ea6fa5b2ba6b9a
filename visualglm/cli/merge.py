"""`visualglm merge`: merge an adapter into its base model. `adapters/merge.py` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .convert import Layout, Overwrite


def merge(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="Model that the adapter was trained on: checkpoint folder or hub id.")
    ],
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Adapter from `visualglm finetune`: its folder, or DIR@STEP.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New folder.")],
    to: Layout = "native",
    overwrite: Overwrite = False,
) -> None:
    """Merge an adapter into its base model. / 把适配器合并进基础模型。

    Example: visualglm merge visualglm-6b runs/lora merged
    """
    options.Flags(model=base, adapter=adapter).check()
    from ..adapters.merge import merge as merge_adapter

    options.quiet_libraries()
    report = merge_adapter(
        base, adapter, target, to, overwrite=overwrite, report=lambda step: typer.echo(step, err=True)
    )
    typer.echo(str(report))
