"""`visualglm pretrain RECIPE.toml`; the work is `pretraining.trainer`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    recipe: Annotated[Path, typer.Argument(help="TOML file: sizes, data and stages; see recipes/.")],
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, e.g. --set output='\"runs/two\"'; repeatable.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read the recipe, say what would be done, and stop.")] = False,
) -> None:
    """Train a model from scratch, stage by stage; run again after a kill to go on. With torchrun, on many processes."""
    from ..pretraining.config import read_pretraining_config

    plan = read_pretraining_config(recipe, tuple(change or ()))
    if check:
        typer.echo("\n".join(plan.summary()))
        return
    from ..pretraining.trainer import Trainer

    Trainer(plan, typer.echo).run()
