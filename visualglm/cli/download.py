"""`visualglm download`: fetch a model from the hub, only when it is typed. `hub/download.py` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import visible
from .grouped_help import data_option, output_option

LICENCE = (
    "The weights of VisualGLM-6B have a licence of their own (MODEL_LICENSE in its repository): read it before you use "
    "them, above all commercially."
)


def download(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Hub id, for example zai-org/visualglm-6b; 6b is short for that.")
    ],
    output: Annotated[
        Path | None,
        output_option("--output", "-o", metavar="DIR", help="Folder to download into. Default: the hub's cache."),
    ] = None,
    revision: Annotated[
        str | None, data_option(metavar="REVISION", help="Branch, tag or commit. Default: the newest.")
    ] = None,
    token: Annotated[
        str | None, data_option(metavar="TOKEN", help="Access token for a private model. Default: HF_TOKEN.")
    ] = None,
    dry_run: Annotated[bool, output_option("--dry-run", help="List files and sizes, and download nothing.")] = False,
) -> None:
    """Download a model; run it again to resume. / 下载模型；中断后重新运行即可续传。

    Files that are complete are not fetched again, and each is checked by size and sha256. HF_ENDPOINT names another
    hub or mirror.

    Example: visualglm download 6b
    """
    from ..hardware.memory import in_words
    from ..hub.download import download as fetch
    from ..hub.download import list_files, resolve_name

    model = list_files(resolve_name(name), revision, token)
    for file in model.files:
        typer.echo(visible(f"{in_words(file.size):>8}  {file.name}"), err=not dry_run)
    typer.echo(visible(f"{in_words(model.size):>8}  in all, {model.name} at {model.commit[:12]}"), err=not dry_run)
    typer.echo(LICENCE, err=True)
    if not dry_run:
        folder = fetch(model, output, token, report=lambda step: typer.echo(step, err=True))
        typer.echo(str(folder))
