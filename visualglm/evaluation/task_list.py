"""The tasks by name, and the reader of each one's files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ..datasets.row_files import RowError
from ..errors import UsageError
from .examples import Examples, check_images
from .metrics import Metric
from .queries import Task
from .readers.captions import read_captions
from .readers.choices import read_choices
from .readers.drawn import NOTE, drawn_examples
from .readers.questions import read_questions
from .readers.source import DataSource
from .readers.yes_no_questions import read_yes_no_questions
from .tasks.caption import CaptionTask
from .tasks.choice import ChoiceTask
from .tasks.pope import PopeTask
from .tasks.scenes import ScenesTask
from .tasks.vqa import VqaTask

TASKS: dict[str, tuple[Callable[[Examples], Task], Callable[[DataSource], Examples]]] = {
    "caption": (CaptionTask, read_captions),
    "vqa": (VqaTask, read_questions),
    "pope": (PopeTask, read_yes_no_questions),
    "choice": (ChoiceTask, read_choices),
}
"""Tasks with data: the task, and the reader of its files. `scenes` draws its own."""


METRICS: dict[str, Sequence[Metric]] = {
    task.name: task.metrics for task in (CaptionTask, VqaTask, PopeTask, ChoiceTask, ScenesTask)
}


def make_task(name: str, source: DataSource | None, limit: int | None) -> tuple[Task, Examples]:
    """Read the data of a task, or draw scenes where there is none; `limit` is a number of rows or scenes.

    Raises:
        UsageError: the data has another shape, no image of it exists, or the task takes no data.
        RowError: a row has another shape.
    """
    if name == "scenes":
        if source is not None:
            raise UsageError("--task scenes draws its own images. Remove --data, or name another task.")
        return ScenesTask(limit), Examples("drawn scenes", [], [NOTE])
    task, read = TASKS[name]
    if source is None:
        examples = drawn_examples(name, limit)
    else:
        if not source.data.exists():
            raise UsageError(f"There is no {source.data}. Name a data file that exists with --data.")
        examples = read(source)
        if not examples.rows:
            raise UsageError(f"{source.data} has no rows for --task {name}. {' '.join(examples.notes)}".strip())
        _check_ids(examples)
        examples = examples.limited(limit)
        check_images(examples)
    return task(examples), examples


def _check_ids(examples: Examples) -> None:
    counts = Counter(row.id for row in examples.rows)
    for row in examples.rows:
        if counts[row.id] > 1:
            raise RowError(
                f"{examples.source}, row {row.row + 1}: its id {row.id[:60]!r} is used {counts[row.id]} times."
            )


def task_metrics(name: str) -> Sequence[Metric]:
    """Return the metrics of a task.

    Raises:
        UsageError: there is no such task.
    """
    if name not in METRICS:
        raise UsageError(f"The results are of a task {name[:40]!r}, which is unknown here. Evaluate again.")
    return METRICS[name]
