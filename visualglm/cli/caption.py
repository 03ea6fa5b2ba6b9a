"""`visualglm caption SOURCE -o OUT`: many pictures; run again after a kill to go on.

One process writes JSON lines; `--engine ray` many machines that write Parquet. Both ask and resume alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError
from . import options

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..captioning.jsonl_results import JsonlResults
    from ..captioning.local_engine import CaptionPlan
    from ..captioning.parquet_results import ParquetResults
    from ..captioning.sources import CaptionItem

Engine = Literal["local", "ray"]


@options.with_flags
def caption(
    source: Annotated[
        str, typer.Argument(help="A folder, a quoted glob, a .jsonl or .csv list, a .parquet, or a .tar shard.")
    ],
    flags: options.Flags,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="JSON lines, one row per picture (ray: a folder); kept and completed.")
    ],
    question: Annotated[str | None, typer.Option(help="What to ask; without one, describe the picture.")] = None,
    batch_size: Annotated[str, typer.Option(help="Pictures answered at once, or auto.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that decode images meanwhile.")] = 2,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try the rows with an error again.")] = False,
    sidecar: Annotated[
        bool, typer.Option("--sidecar", help="Also write the text beside each picture, as .txt.")
    ] = False,
    engine: Annotated[Engine, typer.Option(help="This process, or a Ray cluster that writes Parquet.")] = "local",
    actors: Annotated[
        int | None, typer.Option(min=1, help="ray: models at most; default: one a GPU, or one a machine.")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(envvar="RAY_ADDRESS", help="ray: the cluster, or auto; default: one on this machine alone."),
    ] = None,
) -> None:
    """Describe many pictures; survives a kill, repeats nothing. / 批量描述图片，可断点续跑。"""
    where = EngineChoice(engine, actors, ray_address)
    sampling, size = flags.sampling(), _batch_size(batch_size)
    from ..captioning.local_engine import CaptionPlan
    from ..conversation import QUESTIONS

    items = _items(source, out, sidecar)
    asked = question or QUESTIONS[options.spoken_language(flags.language)]
    plan = CaptionPlan(asked, flags.language, size, workers, sidecar)
    with where.open_results(out) as results:
        waiting = _waiting(results, items, plan, _run(source, question, flags), retry_failed)
        with _progress() as progress:
            bar = progress.add_task("caption", total=len(items), completed=len(items) - len(waiting))
            where.answer(waiting, results, flags, plan, sampling, partial(progress.advance, bar))
        failed = results.failed
    typer.echo(f"{len(waiting)} of {len(items)} pictures answered now; {failed} rows of {out} hold an error.", err=True)
    if failed:
        raise typer.Exit(1)


def _items(source: str, out: Path, sidecar: bool) -> list[CaptionItem]:
    """What the source names.

    Raises:
        UsageError: it names nothing, or `out` or the `.txt` of its pictures have no place.
    """
    from ..captioning.local_engine import check_sidecars
    from ..captioning.sources import read_source

    if not out.name:
        raise UsageError(f"-o {out} has no name of its own: give one, as in -o captions.jsonl.")
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise UsageError(f"-o {out} is the source itself: choose another -o.")
    items = read_source(source)
    if sidecar:
        check_sidecars(items)
    return items


def _waiting(
    results: JsonlResults | ParquetResults,
    items: list[CaptionItem],
    plan: CaptionPlan,
    run: dict[str, Any],
    retry_failed: bool,
) -> list[CaptionItem]:
    """What is left to answer; nothing that is written is touched before it proves to be of this run."""
    from ..captioning.local_engine import remove_torn_sidecars, write_missing_sidecars

    results.check_run(run)
    results.check_question(items, plan.question)
    if retry_failed:
        results.forget_failed()
    if plan.sidecar:
        remove_torn_sidecars(items)
        write_missing_sidecars(items, results.rows(), plan.question)
    return results.waiting(items, plan.question)


def _run(source: str, question: str | None, flags: options.Flags) -> dict[str, Any]:
    """What answers depend on, to be told again when the run goes on: all but where it is computed."""
    given = {name: value for name, value in asdict(flags.anywhere()).items() if name not in ("device", "threads")}
    return {"source": os.path.realpath(source), "question": question, **given}


@dataclass(frozen=True)
class EngineChoice:
    """Which engine answers, and for a cluster how many models and its address."""

    engine: Engine
    actors: int | None
    address: str | None

    def __post_init__(self) -> None:
        if self.engine == "ray":
            from ..captioning.ray_engine import require_ray

            require_ray()
        elif self.actors is not None:
            raise UsageError("--actors are those of --engine ray: add that, or leave --actors out.")

    def open_results(self, out: Path) -> JsonlResults | ParquetResults:
        """What is written already, and the place for more."""
        from ..captioning.jsonl_results import JsonlResults
        from ..captioning.parquet_results import ParquetResults

        return ParquetResults(out) if self.engine == "ray" else JsonlResults(out)

    def answer(
        self,
        waiting: list[CaptionItem],
        results: JsonlResults | ParquetResults,
        flags: options.Flags,
        plan: CaptionPlan,
        sampling: dict[str, Any],
        advance: Callable[[int], object],
    ) -> None:
        """Gives every waiting item its row; `advance` hears how many more have one."""
        from ..captioning.jsonl_results import JsonlResults
        from ..captioning.local_engine import CaptionRun, open_answers

        if isinstance(results, JsonlResults):
            CaptionRun(flags.open_model(), results, plan, sampling)(waiting, lambda item: advance(1))
        elif waiting:
            from ..captioning.ray_engine import answer, connected, pool_of

            opener = partial(open_answers, flags.anywhere().open_model, plan, sampling)
            with connected(self.address):
                for count in answer(waiting, results, opener, pool_of(self.actors, flags.device)):
                    advance(count)


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
