"""Forgetting: questions about drawn scenes before and after training, scored by `visualglm evaluate --task scenes`.

OUTPUT/scenes-before/  OUTPUT/scenes-after/  OUTPUT/forgetting.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from ..conversation import VisualGLM
from ..evaluation.evaluate import Evaluation, evaluate
from ..evaluation.query_runner import AnswerPlan
from ..evaluation.readers.drawn import NOTE
from ..evaluation.results import read_run
from ..evaluation.run_comparison import compare_runs
from ..evaluation.task_list import task_metrics
from ..files.atomic import write_file
from .trainable_model import TrainableModel

BEFORE, AFTER, FORGETTING = "scenes-before", "scenes-after", "forgetting.json"


@torch.no_grad()
def ask_scenes(model: VisualGLM, ready: TrainableModel, folder: Path) -> None:
    """Answer the questions of `forgetting` scenes greedily, in the dtype of training; `folder` gets the report."""
    inside = model.model
    inside.eval()
    evaluation = Evaluation("scenes", limit=ready.recipe.forgetting, model={"name": folder.name})
    plan = AnswerPlan(sampling={"do_sample": False})
    with torch.autocast(inside.device.type, ready.dtype, enabled=ready.dtype != torch.float32):
        evaluate(evaluation, lambda: model, plan, folder)


def describe_forgetting(output: Path) -> Iterator[str]:
    """Store the comparison of both runs, and yield it as sentences."""
    comparison = compare_runs(read_run(output / BEFORE), read_run(output / AFTER), task_metrics("scenes"))
    write_file(output / FORGETTING, json.dumps(comparison, indent=2, ensure_ascii=False) + "\n")
    yield f"drawn scenes before and after ({NOTE}):"
    for name, found in comparison["differences"].items():
        if found["value"] is not None:
            interval = f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
            yield f"  {name}: {found['a']:.3f}, then {found['b']:.3f}: {interval}, n = {found['n']}"
