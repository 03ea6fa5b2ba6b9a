"""Run a task with a model: replies, figures, report. `visualglm evaluate` and `quantize --evaluate` call it.

DIR/replies.jsonl  DIR/run.json  DIR/rows.jsonl  DIR/results.json  DIR/report.html
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..conversation import VisualGLM
from ..errors import UsageError
from ..files.untrusted_files import open_regular
from ..hardware.machine_report import versions
from .examples import Examples
from .explained_rows import explain_worst
from .queries import ScoredRow
from .query_runner import AnswerPlan, answer_task
from .readers.source import DataSource
from .reply_store import Part, ReplyStore
from .report import write_report
from .results import summarize, write_results
from .scenes.kinds import Language
from .task_list import make_task


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate: a task, its data, and names of model and settings for the results.

    `settings` decide the replies; a run that is resumed must have the same. `explain`: number of the worst answers that
    the report explains.
    """

    task: str
    source: DataSource | None = None
    limit: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    language: Language = "en"
    explain: int = 0


@dataclass(frozen=True)
class Outcome:
    """Results and rows of a finished run; `results` is None while other processes still answer their parts."""

    results: dict[str, Any] | None
    rows: list[ScoredRow]


def evaluate(
    evaluation: Evaluation,
    open_model: Callable[[], VisualGLM],
    plan: AnswerPlan,
    folder: Path,
    part: Part | None = None,
    done: Callable[[int, int], object] = lambda finished, known: None,
) -> Outcome:
    """Answer what has no reply yet, then write results and report into `folder`.

    The data is checked before the model is opened. With several processes, the last one to finish writes the results.

    Raises:
        UsageError: the data has another shape, or the folder holds another run.
        RowError: a row has another shape.
    """
    started, part, open_model = time.time(), part or Part(), cache(open_model)
    task, examples = make_task(evaluation.task, evaluation.source, evaluation.limit)
    data = describe_data(evaluation, examples)
    settings = {"task": evaluation.task, "data": data, "limit": evaluation.limit, **evaluation.settings}
    with ReplyStore(folder, settings, part) as store:
        if any(part.has(query.row) and query.id not in store.replies for query in task.queries(store.replies)):
            answer_task(open_model(), task, store, plan, part, done)
        store.refresh()
        if any(query.id not in store.replies for query in task.queries(store.replies)):
            return Outcome(None, [])
        rows = task.score(store.replies)
    results = {
        "task": evaluation.task,
        "model": dict(evaluation.model),
        "data": data,
        "notes": list(examples.notes),
        "settings": dict(evaluation.settings),
        **summarize(task.metrics, rows, task.baselines()),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.time() - started, 1),
        "versions": versions(),
    }
    write_results(folder, results, rows)
    explained: list[str] = []
    if evaluation.explain:
        explained = explain_worst(open_model(), rows, evaluation.explain, plan.language, evaluation.language)
    write_report(folder / "report.html", results, task.metrics, rows, evaluation.language, explained)
    return Outcome(results, rows)


def describe_data(evaluation: Evaluation, examples: Examples) -> dict[str, Any]:
    """Name the data and its content: runs are compared by it, not by paths."""
    if evaluation.source is None:
        return {"name": examples.source, "sha256": None, "limit": evaluation.limit}
    source = evaluation.source
    files = sorted(path for path in source.data.rglob("*") if path.suffix in (".json", ".jsonl", ".txt"))
    named = files if source.data.is_dir() else [source.data]
    digest = hashlib.sha256()
    for path in [*named, *([source.answers] if source.answers else [])]:
        try:
            with open_regular(path) as file:
                hashlib.file_digest(file, lambda: digest)  # type: ignore[arg-type]
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror}). Check the path and the rights.") from error
    return {"name": source.data.name, "sha256": digest.hexdigest(), "limit": evaluation.limit}
