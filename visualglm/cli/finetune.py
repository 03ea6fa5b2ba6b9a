"""`visualglm finetune RECIPE.toml`, or without a recipe; the work is `finetuning.run`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import visible
from . import options

Method = Literal["lora", "qlora", "ptuning", "full"]


def finetune(
    recipe: Annotated[
        Path | None, typer.Argument(help="TOML file, see recipes/finetune/; flags below go over it.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A .json list of img, prompt, label; a .jsonl of messages; or a .csv.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="New folder for the result.")] = None,
    method: Annotated[Method | None, typer.Option(help="What trains; lora if not given.")] = None,
    model: Annotated[str | None, typer.Option(help="The base: a folder of any format, or a hub id.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="The vocabulary, if not beside the weights.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, e.g. --set epochs=5; repeatable.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Show what the data holds, and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the output folder's newest checkpoint.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave broken rows out instead of stopping.")] = False,
) -> None:
    """Train on your own pictures and answers; the result works with --adapter. With torchrun, on many processes."""
    from ..finetuning.finetuning_config import read_finetuning

    given = {"data": data, "output": output, "method": method, "model": model, "tokenizer": tokenizer}
    if check and output is None and recipe is None:
        given["output"] = "."
    plan = read_finetuning(recipe, tuple(change or ()), skip_bad=skip_bad or None, **given)
    from ..finetuning import run
    from ..finetuning.resume import is_first

    options.quiet_transformers()
    say = _say if is_first() else _silent
    if check:
        raise typer.Exit(1 if run.check(plan, say) else 0)
    if not run.finetune(plan, say, resume, device):
        raise typer.Exit(143)  # what a program that SIGTERM ended exits with


def _say(line: str) -> None:
    """One line of the run's; it may quote rows."""
    typer.echo(visible(line, kept="\n\t"))


def _silent(line: str) -> None:
    """Of many processes only the first speaks."""
