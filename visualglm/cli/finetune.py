"""`visualglm finetune`: train on your images, with a recipe or with flags. `finetuning/run.py` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import visible
from . import options
from .grouped_help import data_option, model_option, output_option

Method = Literal["lora", "qlora", "ptuning", "full"]


def finetune(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="TOML file, see recipes/finetune/; options override it.")
    ] = None,
    data: Annotated[
        str | None,
        data_option(metavar="FILE", help="A .json list of {img, prompt, label}, a .jsonl of messages, or a .csv."),
    ] = None,
    output: Annotated[
        str | None, output_option("--output", "-o", metavar="DIR", help="New folder for the result.")
    ] = None,
    method: Annotated[
        Method | None,
        model_option(metavar="lora|qlora|ptuning|full", help="Fine-tuning method. Default: lora."),
    ] = None,
    model: Annotated[
        str | None, model_option(metavar="MODEL", help="Base model: checkpoint folder of any format, or hub id.")
    ] = None,
    tokenizer: options.Tokenizer = None,
    device: Annotated[str, model_option(metavar="DEVICE", help="auto, cpu, cuda or cuda:1.")] = "auto",
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a setting of the recipe, e.g. --set epochs=5 (repeatable)."
        ),
    ] = None,
    check: Annotated[bool, data_option("--check", help="Check the data, print a summary and exit.")] = False,
    resume: Annotated[
        bool, output_option("--resume", help="Continue from the newest checkpoint in the output folder.")
    ] = False,
    skip_bad: Annotated[bool, data_option("--skip-bad", help="Skip invalid rows instead of stopping.")] = False,
) -> None:
    """Fine-tune on your images and answers. / 用自己的图片和答案微调模型。

    Use the result with --adapter. Works with torchrun on several processes.

    Example: visualglm finetune --data data.json --output runs/lora
    """
    from ..datasets.row_files import check_data_file
    from ..finetuning.config import read_finetuning

    given = {"data": data, "output": output, "method": method, "model": model, "tokenizer": tokenizer}
    if check and output is None and recipe is None:
        given["output"] = "."
    plan = read_finetuning(recipe, tuple(change or ()), skip_bad=skip_bad or None, **given)
    options.check_device(device)
    options.check_model(plan.model)
    for file in filter(None, (plan.data, plan.validation)):
        check_data_file(file)
    if not check:
        options.announce_opening(plan.model or None, "auto")
    from ..finetuning import run
    from ..finetuning.resume import is_first

    options.quiet_libraries()
    say = _print_line if is_first() else _print_nothing
    if check:
        raise typer.Exit(1 if run.check(plan, say) else 0)
    if not run.finetune(plan, say, resume, device):
        raise typer.Exit(143)  # 128 + SIGTERM, as shells report it


def _print_line(line: str) -> None:
    """Print one line of the run, which may quote rows of the data."""
    typer.echo(visible(line, kept="\n\t"))


def _print_nothing(line: str) -> None:
    """Keep ranks above 0 silent."""
