"""`visualglm evaluate`: score a model on a task; the same command resumes an interrupted run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError, require_extra
from . import options
from .caption import parse_batch_size
from .grouped_help import data_option, output_option, performance_option
from .model_name import MINI

if TYPE_CHECKING:
    from ..evaluation.reply_store import Part

MOST_EXPLAINED = 100
"""Each explanation adds some 100 KB to the report."""
TaskName = Literal["caption", "vqa", "pope", "choice", "scenes"]


@options.with_flags
def evaluate(
    flags: options.Flags,
    task: Annotated[
        TaskName | None,
        data_option(
            metavar="TASK",
            help="caption, vqa, pope (yes or no), choice (multiple choice), or scenes (drawn, without data).",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        data_option(metavar="PATH", help="Data file or folder in its published form. Default: drawn scenes, offline."),
    ] = None,
    images: Annotated[
        Path | None, data_option(metavar="DIR", help="Folder of the images. Default: the data file's folder.")
    ] = None,
    answers: Annotated[
        Path | None, data_option(metavar="PATH", help="File with the right answers, if it is a separate one (VQAv2).")
    ] = None,
    limit: Annotated[
        int | None, data_option(min=1, metavar="N", help="Use N rows, evenly spaced; or N drawn scenes.")
    ] = None,
    out: Annotated[
        Path | None,
        output_option("--output", "-o", "--out", metavar="DIR", help="Folder of results, report and replies."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        output_option("--compare", metavar="A B", help="Compare two finished folders; runs no model."),
    ] = None,
    explain: Annotated[
        int,
        output_option(
            "--explain", min=0, max=MOST_EXPLAINED, metavar="N", help="Explain N of the worst answers in the report."
        ),
    ] = 0,
    as_json: options.Json = False,
    batch_size: Annotated[str, performance_option(metavar="N", help="Questions in one batch, or auto.")] = "auto",
    workers: Annotated[int, performance_option(min=1, max=64, metavar="N", help="Processes that decode images.")] = 2,
) -> None:
    """Score a model on a task, with intervals and a report. / 评测模型，给出置信区间与报告。

    Run the same command again to resume. With torchrun, processes share the rows.

    Example: visualglm evaluate --task scenes -o report
    """
    require_extra("eval", "visualglm evaluate", "matplotlib", "pycocoevalcap", "scipy")
    if compare is not None:
        if task is not None or data is not None:
            raise UsageError("--compare reads two finished folders. Remove --task and --data.")
        _compare(*compare, out, as_json, options.interface_language(flags.language))
        return
    if task is None or out is None:
        raise UsageError("Name a task and a folder, for example --task scenes -o report.")
    if data is None and (images is not None or answers is not None):
        raise UsageError("--images and --answers belong to a data file. Name it with --data.")
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.evaluate import evaluate as run
    from ..evaluation.query_runner import AnswerPlan
    from ..evaluation.readers.source import DataSource
    from ..evaluation.reply_store import part_of_environment

    part = part_of_environment()
    flags = _own_device(flags, part)
    sampling = _sampling(flags)
    evaluation = Evaluation(
        task,
        None if data is None else DataSource(data, images, answers),
        limit,
        describe_model(flags),
        {**_run_settings(flags), "sampling": {**sampling}},
        options.interface_language(flags.language),
        explain,
    )
    plan = AnswerPlan(flags.language, parse_batch_size(batch_size), workers, sampling)
    outcome = run(evaluation, flags.open_model, plan, out, part, report_progress)
    if outcome.results is None:
        typer.echo("This part is finished; the last process writes the results.", err=True)
        return
    as_text = json.dumps(outcome.results, ensure_ascii=False, indent=1)
    typer.echo(as_text if as_json else format_results(outcome.results))
    typer.echo(f"report: {out / 'report.html'}", err=True)
    if outcome.results["unanswered"]:
        raise typer.Exit(1)


def _own_device(flags: options.Flags, part: Part) -> options.Flags:
    """Give each process of torchrun on a machine with GPUs its own."""
    if part.count == 1 or flags.device != "auto":
        return flags
    import torch

    return replace(flags, device=f"cuda:{os.environ.get('LOCAL_RANK', '0')}") if torch.cuda.is_available() else flags


def _sampling(flags: options.Flags) -> dict[str, Any]:
    """Return the sampling arguments; greedy unless the user asks for sampling."""
    given = flags.sampling()
    asks = {"temperature", "top_p", "top_k", "preset"} & set(given)
    return given if asks else {"do_sample": False, **given}


def _run_settings(flags: options.Flags) -> dict[str, Any]:
    """Collect what decides the replies besides sampling: all but device and threads."""
    absolute = asdict(flags.with_absolute_paths())
    return {
        name: value
        for name, value in absolute.items()
        if name not in ("device", "threads", "compile", *options.SAMPLING_FLAGS, "greedy")
    }


def describe_model(flags: options.Flags) -> dict[str, Any]:
    """Name a model by what was asked for, for results and reports."""
    parts = [flags.model or MINI]
    parts += [f"adapter {flags.adapter}"] if flags.adapter else []
    parts += [f"{flags.quantize} bits"] if flags.quantize else []
    fields = {"name": ", ".join(parts), "quantize": flags.quantize, "adapter": flags.adapter, "dtype": flags.dtype}
    return {name: value for name, value in fields.items() if value is not None}


def format_results(results: dict[str, Any]) -> str:
    """Write the figures as lines of text."""
    lines = [f"{results['task']}: {results['rows']} rows of {results['data']['name']}"]
    if results["unanswered"]:
        lines.append(f"{results['unanswered']} rows have no answer and count as wrong:")
        lines += [f"  {error}" for error in results["errors"]]
    for name, entry in results["metrics"].items():
        figure = "undefined"
        if entry["value"] is not None:
            figure = f"{entry['value']:.3f}  [{entry['low']:.3f}, {entry['high']:.3f}]"
        lines.append(f"{name:24} {figure}   n = {entry['n']}")
    return "\n".join(lines)


def report_progress(finished: int, known: int) -> None:
    """Say on stderr how far the answers are."""
    if finished % 100 == 0 or finished == known:
        typer.echo(f"{finished} of {known} answers", err=True)


def _compare(a: Path, b: Path, out: Path | None, as_json: bool, language: Literal["zh", "en"]) -> None:
    from ..evaluation.report import write_comparison
    from ..evaluation.results import read_run
    from ..evaluation.run_comparison import compare_runs
    from ..evaluation.task_list import task_metrics
    from ..files.atomic import write_file

    first, second = read_run(a), read_run(b)
    comparison = compare_runs(first, second, task_metrics(first.results["task"]))
    text = json.dumps(comparison, ensure_ascii=False, indent=1)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / "comparison.json", text + "\n")
        write_comparison(out / "report.html", comparison, language)
    typer.echo(text if as_json else format_comparison(comparison))


def format_comparison(comparison: dict[str, Any]) -> str:
    """Write the differences as lines of text."""
    lines = [f"{comparison['task']}: {comparison['rows']} rows in both"]
    for name, entry in comparison["differences"].items():
        if entry["value"] is None:
            continue
        tests = [f"p = {entry['p_bootstrap']:.4f} (bootstrap)"] if entry["p_bootstrap"] is not None else []
        tests += [f"{entry['p_mcnemar']:.4f} (McNemar)"] if entry["p_mcnemar"] is not None else []
        interval = f"[{entry['low']:+.3f}, {entry['high']:+.3f}]"
        values = f"{entry['a']:.3f} -> {entry['b']:.3f}  {entry['value']:+.3f} {interval}"
        lines.append(f"{name:24} {values}  {', '.join(tests)}")
    return "\n".join(lines)
