"""Evaluate two models on the same task and compare them: what bits, or a change of weights, cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..conversation import VisualGLM
from .evaluate import Evaluation, evaluate
from .query_runner import AnswerPlan
from .results import read_run
from .run_comparison import compare_runs
from .task_list import task_metrics

COMPARED_SCENES = 20
"""Drawn scenes of a comparison without data."""


def compare_models(
    task: str, models: Mapping[str, Callable[[], VisualGLM]], done: Callable[[int, int], object]
) -> dict[str, Any]:
    """Answer a task on drawn scenes with two models, one after the other, greedily; return their comparison.

    Args:
        models: the name of each model and the function that opens it, the one to compare with first.
    """
    plan = AnswerPlan(sampling={"do_sample": False})
    with TemporaryDirectory(prefix="visualglm-") as folder:
        runs = []
        for number, (name, open_model) in enumerate(models.items()):
            place = Path(folder) / str(number)
            evaluate(Evaluation(task, limit=COMPARED_SCENES, model={"name": name}), open_model, plan, place, done=done)
            runs.append(read_run(place))
        return compare_runs(runs[0], runs[1], task_metrics(task))
