"""`visualglm caption`: caption images in bulk; the same command resumes an interrupted run.

The local engine writes JSON lines from one process. The Ray engine writes Parquet from many machines. Prompts, answers
and resuming are the same in both.
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
from .grouped_help import data_option, output_option, performance_option
from .model_name import print_notice, served_name

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
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Images: a folder, a quoted glob, a list (.jsonl, .json, .csv, .tsv), a .parquet or .tar file.",
        ),
    ],
    flags: options.Flags,
    out: Annotated[
        Path,
        output_option(
            "--output",
            "-o",
            "--out",
            metavar="PATH",
            help="JSON lines file, one row per image (ray: a folder of Parquet files). Existing rows are kept.",
        ),
    ],
    question: Annotated[
        str | None, data_option(metavar="TEXT", help="Question about each image. Default: describe the image.")
    ] = None,
    batch_size: Annotated[str, performance_option(metavar="N", help="Images answered in one batch, or auto.")] = "auto",
    workers: Annotated[int, performance_option(min=1, max=64, metavar="N", help="Processes that decode images.")] = 2,
    retry_failed: Annotated[bool, output_option("--retry-failed", help="Answer rows with an error again.")] = False,
    sidecar: Annotated[
        bool, output_option("--sidecar", help="Also write each text to a .txt file beside its image.")
    ] = False,
    engine: Annotated[
        Engine, performance_option(metavar="local|ray", help="local: this process; ray: a Ray cluster.")
    ] = "local",
    actors: Annotated[
        int | None,
        performance_option(
            min=1, metavar="N", help="ray: maximum models. Default: one per GPU, or one per machine without GPUs."
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        performance_option(
            envvar="RAY_ADDRESS",
            metavar="ADDRESS",
            help="ray: address of the cluster, or auto. Default: a new one on this machine.",
        ),
    ] = None,
) -> None:
    """Caption images in bulk. / 批量描述图片，可断点续跑。

    Run the same command again to resume after an interruption; finished rows are not repeated.

    Example: visualglm caption photos/ -o captions.jsonl
    """
    engine_choice = EngineChoice(engine, actors, ray_address)
    sampling, size = flags.sampling(), parse_batch_size(batch_size)
    from ..captioning.sources import source_path

    source = source_path(source)
    items = _read_items(source, out, sidecar)
    default_question = question or flags.default_question()
    from ..captioning.local_engine import CaptionPlan

    plan = CaptionPlan(default_question, flags.language, size, workers, sidecar, served_name(flags.model))
    with engine_choice.open_results(out) as results:
        waiting = _waiting_items(results, items, plan, _run_settings(source, question, flags), retry_failed)
        with _progress_bar() as progress:
            before = len(items) - len(waiting)
            bar = progress.add_task("caption", total=len(items), completed=before, before=before, start=False)
            start, advance = partial(progress.start_task, bar), partial(progress.advance, bar)
            try:
                engine_choice.answer(waiting, results, flags, plan, sampling, start, advance)
            except KeyboardInterrupt:
                progress.stop()
                typer.echo(f"Stopped; finished rows are in {out}. Run the same command again to continue.", err=True)
                raise
        failed = results.failed
    typer.echo(summary(len(waiting), len(items), failed, out), err=True)
    print_notice(flags)
    if failed:
        raise typer.Exit(1)


def summary(answered: int, images: int, failed: int, out: Path) -> str:
    """Say how many images were answered, how many rows of the file have an error, and how to retry those."""
    errors = "1 row" if failed == 1 else f"{failed} rows"
    advice = " (`error` says why); --retry-failed answers them again" if failed else ""
    return f"answered {answered} of {images} images; {errors} with an error in {out}{advice}."


def _read_items(source: str, out: Path, sidecar: bool) -> list[CaptionItem]:
    """List the images of the source.

    Raises:
        UsageError: the source has no images, `out` is the source or has a table's suffix, or a sidecar file cannot be
            written.
    """
    from ..captioning.sources import read_source

    if not out.name:
        raise UsageError(f"-o {out} has no file name. Give one, for example -o captions.jsonl.")
    if out.suffix.lower() in (".csv", ".tsv"):
        raise UsageError(f"-o {out} is named as a table, but would hold JSON lines. Name it {out.stem}.jsonl.")
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise UsageError(f"-o {out} is the source itself. Choose another -o.")
    items = read_source(source)
    if sidecar:
        from ..captioning.local_engine import check_sidecars

        check_sidecars(items)
    return items


def _waiting_items(
    results: JsonlResults | ParquetResults,
    items: list[CaptionItem],
    plan: CaptionPlan,
    run: dict[str, Any],
    retry_failed: bool,
) -> list[CaptionItem]:
    """List the items without a row. Existing rows are changed only after they prove to belong to this run."""
    from ..captioning.local_engine import remove_torn_sidecars, write_missing_sidecars

    results.check_run(run, items)
    results.check_question(items, plan.question)
    if retry_failed:
        results.forget_failed()
    if plan.sidecar:
        remove_torn_sidecars(items)
        write_missing_sidecars(items, results.rows(), plan.question)
    return results.waiting(items, plan.question)


def _run_settings(source: str, question: str | None, flags: options.Flags) -> dict[str, Any]:
    """Collect the settings that determine the answers: all but device and threads. A resumed run must have the same."""
    absolute = asdict(flags.with_absolute_paths())
    given = {name: value for name, value in absolute.items() if name not in ("device", "threads")}
    return {"source": os.path.realpath(source), "question": question, **given}


@dataclass(frozen=True)
class EngineChoice:
    """The engine that answers; for Ray also the number of actors and the cluster's address."""

    engine: Engine
    actors: int | None
    address: str | None

    def __post_init__(self) -> None:
        if self.engine == "ray":
            from ..captioning.ray_engine import require_ray

            require_ray()
        elif self.actors is not None:
            raise UsageError("--actors needs --engine ray. Add that, or remove --actors.")

    def open_results(self, out: Path) -> JsonlResults | ParquetResults:
        """Open the results that exist, for reading and for adding rows."""
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
        start: Callable[[], object],
        advance: Callable[[int], object],
    ) -> None:
        """Answer the waiting items; `start` is called before the first, `advance` with the number of new rows."""
        if not waiting:
            return
        from ..captioning.jsonl_results import JsonlResults
        from ..captioning.local_engine import CaptionRun, open_answers

        if isinstance(results, JsonlResults):
            run = CaptionRun(flags.open_model(), results, plan, sampling)
            start()
            run(waiting, lambda item: advance(1))
        else:
            from ..captioning.ray_engine import answer, connected, pool_of

            load_answerer = partial(open_answers, flags.with_absolute_paths().open_model, plan, sampling)
            with connected(self.address):
                start()
                for count in answer(waiting, results, load_answerer, pool_of(self.actors, flags.device)):
                    advance(count)


def parse_batch_size(text: str) -> int | None:
    """Parse a number, or `auto` as None.

    Raises:
        UsageError: the text is neither `auto` nor a number above 0.
    """
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is not a number of images. Give 1 or more, or auto.")
    return int(text)


def _progress_bar() -> Progress:
    """Build a progress bar on stderr with images per second and the remaining time."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import Task as Bar
    from rich.text import Text

    class Speed(TextColumn):
        def render(self, task: Bar) -> Text:
            # over all elapsed time: task.speed would be that within a batch, whose rows come at once
            done = task.completed - task.fields["before"]
            return Text(f"{done / task.elapsed:.2f} images/s" if done and task.elapsed else "")

    columns = (BarColumn(), MofNCompleteColumn(), Speed(""), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), speed_estimate_period=120)
