"""commands/caption: `visualglm caption SOURCE -o OUT.jsonl`: many pictures; run again after a kill to go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from . import options

if TYPE_CHECKING:
    from rich.progress import Progress


@options.with_flags
def caption(
    source: Annotated[str, typer.Argument(help="A folder, a quoted glob, a .jsonl or .csv list, or a .tar shard.")],
    flags: options.Flags,
    out: Annotated[Path, typer.Option("-o", "--out", help="JSON lines, one row per picture; kept and completed.")],
    question: Annotated[str | None, typer.Option(help="What to ask; without one, describe the picture.")] = None,
    batch_size: Annotated[str, typer.Option(help="Pictures answered at once, or auto.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Threads that decode pictures meanwhile.")] = 2,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try the rows with an error again.")] = False,
    sidecar: Annotated[
        bool, typer.Option("--sidecar", help="Also write the text beside each picture, as .txt.")
    ] = False,
) -> None:
    """Describe many pictures; survives a kill, repeats nothing. / 批量描述图片，可断点续跑。"""
    sampling, size = flags.sampling(), _batch_size(batch_size)
    from ..captioning.results import Results
    from ..captioning.run import Plan, Run, check_sidecars
    from ..captioning.sources import read_source
    from ..conversation import QUESTIONS

    items = read_source(source)
    if sidecar:
        check_sidecars(items)
    asked = question or QUESTIONS[options.spoken_language(flags.language)]
    with Results(out, retry_failed) as results:
        run = Run(flags.open_model(), results, Plan(asked, flags.language, size, workers, sidecar), sampling)
        waiting = run.waiting(items)
        if question is not None:
            run.check_question(items)
        with _progress() as progress:
            bar = progress.add_task("caption", total=len(items), completed=len(items) - len(waiting))
            run(waiting, lambda item: progress.advance(bar))
        failed = results.failed
    typer.echo(f"{len(waiting)} of {len(items)} pictures answered now; {failed} rows of {out} hold an error.", err=True)
    if failed:
        raise typer.Exit(1)


def _batch_size(text: str) -> int | None:
    """None for auto.

    Raises:
        UsageError: it is neither `auto` nor a number from 1 on.
    """
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is no number of pictures: write 1 or more, or auto.")
    return int(text)


def _progress() -> Progress:
    """A bar on stderr with pictures per second and the time that is left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import Task as Bar
    from rich.text import Text

    class Speed(TextColumn):
        def render(self, task: Bar) -> Text:
            return Text(f"{task.speed or 0:.2f} images/s")

    columns = (BarColumn(), MofNCompleteColumn(), Speed(""), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), speed_estimate_period=120)
