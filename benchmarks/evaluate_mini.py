"""The packed model, its 8- and 4-bit forms and one adapter on all offline tasks (`make evaluate-mini`).

    python benchmarks/evaluate_mini.py [--scenes N]

Runs `visualglm evaluate` into `runs/evaluate-mini/FORM/TASK` (resumable; reports are there), compares each form with
the unchanged model row by row, and stores `benchmarks/results/evaluate_mini.json`. The adapter is a LoRA trained here
on counting questions about drawn scenes of training seeds. Drawn scenes measure binding and presence, not
photographs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from record import RESULTS, ROOT, origin, store

from visualglm.cli.evaluate import describe_model
from visualglm.cli.options import Flags
from visualglm.errors import UsageError
from visualglm.evaluation.evaluate import Evaluation, evaluate
from visualglm.evaluation.query_runner import AnswerPlan
from visualglm.evaluation.readers.drawn import NOTE
from visualglm.evaluation.results import StoredRun, read_run
from visualglm.evaluation.run_comparison import compare_runs
from visualglm.evaluation.scenes.kinds import LANGUAGES
from visualglm.evaluation.scenes.questions import exchange_of
from visualglm.evaluation.scenes.render import render_scene
from visualglm.evaluation.scenes.scene import scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds
from visualglm.evaluation.task_list import task_metrics
from visualglm.finetuning.config import read_finetuning
from visualglm.finetuning.run import finetune

FOLDER = ROOT / "runs" / "evaluate-mini"
RESULT = RESULTS / "evaluate_mini.json"
ADAPTER = FOLDER / "counting-lora"
TASKS = ("scenes", "pope", "vqa", "caption", "choice")
FORMS = {
    "base": Flags(device="cpu"),
    "8 bits": Flags(device="cpu", quantize="8"),
    "4 bits": Flags(device="cpu", quantize="4"),
    "adapter": Flags(device="cpu", adapter="counting-lora"),
}
SCENES = 60
TRAINING_SCENES = 150
FIRST_TRAINING_SEED = 500_000_000
SETTINGS = """# visualglm finetune runs/evaluate-mini/counting.toml
data = "train.json"
output = "counting-lora"
method = "lora"
epochs = 3
batch = 8
learning_rate = 1e-3
answers = 20
max_new_tokens = 32
seed = 1

[lora]
rank = 16
"""


def main() -> None:
    """Run what is missing, and store the figures."""
    parser = argparse.ArgumentParser(description="The packed model on all offline tasks.")
    parser.add_argument("--scenes", type=int, default=SCENES, help="drawn scenes of each task")
    scenes = parser.parse_args().scenes
    started = time.time()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(FOLDER):
        train_adapter()
        found = {form: evaluated(form, flags, scenes) for form, flags in FORMS.items()}
    forms = {form: {task: figures(run) for task, run in runs.items()} for form, runs in found.items()}
    differences = {
        form: {task: compared(found["base"][task], run) for task, run in runs.items()}
        for form, runs in found.items()
        if form != "base"
    }
    record = {"scenes": scenes, "note": NOTE, "forms": forms, "differences": differences}
    store(RESULT, {**origin(__file__), "seconds": round(time.time() - started), **record})


def train_adapter() -> None:
    """Fine-tune on counting questions whose scenes are of the training split."""
    if (ADAPTER / "result.json").exists():
        return
    images = FOLDER / "train"
    images.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in islice(seeds(Split.TRAIN, FIRST_TRAINING_SEED), TRAINING_SCENES):
        scene = scene_of(seed, most=5)
        render_scene(scene).save(images / f"{seed}.png")
        for language in LANGUAGES:
            exchange = exchange_of("count", scene, language, np.random.default_rng((seed, 1)))
            if exchange is not None:
                rows.append({"img": f"train/{seed}.png", "prompt": exchange.question, "label": exchange.answer})
    (FOLDER / "train.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    (FOLDER / "counting.toml").write_text(SETTINGS, encoding="utf-8")
    if not finetune(read_finetuning(FOLDER / "counting.toml"), print, device="cpu"):
        raise SystemExit("stopped before its end: run again.")


def evaluated(form: str, flags: Flags, scenes: int) -> dict[str, StoredRun]:
    """Evaluate one form on all tasks; the model is opened once, and not at all if every task is finished."""
    opened = cache(flags.open_model)
    runs = {}
    for task in TASKS:
        folder = FOLDER / form.replace(" ", "-") / task
        with contextlib.suppress(UsageError):
            runs[task] = read_run(folder)
            continue
        print(f"{form}, {task}", flush=True)
        evaluation = Evaluation(task, limit=scenes, model=describe_model(flags), settings={"form": form})
        evaluate(evaluation, opened, AnswerPlan(sampling={"do_sample": False}), folder)
        runs[task] = read_run(folder)
    return runs


def figures(run: StoredRun) -> dict[str, Any]:
    """Select what the docs quote."""
    names = ("rows", "unanswered", "metrics", "baselines", "seconds")
    return {name: run.results[name] for name in names}


def compared(base: StoredRun, run: StoredRun) -> dict[str, Any]:
    """Compare a form with the unchanged model."""
    task = run.results["task"]
    differences: dict[str, Any] = compare_runs(base, run, task_metrics(task))["differences"]
    return differences


if __name__ == "__main__":
    main()
