"""`visualglm pretrain`: train a model from scratch. `pretraining/trainer.py` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="TOML file with sizes, data and stages; see recipes/.")
    ],
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a setting, e.g. --set output='\"runs/two\"' (repeatable).",
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read the recipe, print its stages and exit.")] = False,
) -> None:
    """Train a model from scratch, stage by stage. / 从零开始分阶段训练模型。

    Run the same command again to resume after an interruption. Works with torchrun on several processes.

    Example: visualglm pretrain recipes/6b.toml --check
    """
    from ..pretraining.config import read_pretraining_config

    config = read_pretraining_config(recipe, tuple(change or ()))
    if check:
        typer.echo("\n".join(config.summary()))
        return
    from ..pretraining.trainer import Trainer

    Trainer(config, typer.echo).run()
