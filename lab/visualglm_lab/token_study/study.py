"""Run the jobs of the study, each once, and write its results.

Every job has a folder with the state of its training and, once it is measured, `result.json`. After a kill the study
goes on: finished jobs are read, a job that was training resumes from its last save.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from visualglm.errors import UsageError
from visualglm.files.atomic import write_file
from visualglm.hardware.machine_report import machine, timed_alone, versions

from .config import STAGES, STARTS, Job, StudyConfig
from .measurements import measure_drawing, measure_reading, measure_tokenizer, packed, read_log
from .trainer import DivergedError, StartTrainer, StudyTrainer

RESULT = "result.json"
FREE = ("output", "results", "conditions", "seeds", "drawing_seeds", "processes", "save_minutes")
"""Settings that may change between runs of the command: no job's result depends on them."""
TRIAL_STEPS = 3
MEASURE: dict[str, Callable[[StudyTrainer], dict[str, Any]]] = {
    "tokenizer": measure_tokenizer,
    "reading": measure_reading,
    "drawing": measure_drawing,
}


def run_study(plan: StudyConfig, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Run what is not finished yet, first what other runs start from; return the results of all jobs and write them."""
    check_same_recipe(plan)
    jobs = list(plan.jobs())
    for stages in (STARTS, ("reading", "drawing")):
        waiting = [job for job in jobs if job.stage in stages and not (plan.folder(job) / RESULT).exists()]
        if plan.processes > 1 and len(waiting) > 1:
            _run_side_by_side(plan, waiting, report)
        else:
            for job in waiting:
                report(run_job(plan, job))
    results = {job: json.loads((plan.folder(job) / RESULT).read_text(encoding="utf-8")) for job in jobs}
    summary = summarize(plan, results)
    write_file(Path(plan.results), json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def check_same_recipe(plan: StudyConfig) -> None:
    """Check that what is finished in the output folder is of this recipe, or write the recipe there.

    Raises:
        UsageError: a setting on which results depend has changed.
    """
    file = Path(plan.output) / "recipe.json"
    settings = {name: value for name, value in asdict(plan).items() if name not in FREE}
    saved = json.loads(file.read_text(encoding="utf-8")) if file.exists() else settings
    changed = [name for name in settings if saved.get(name) != settings[name]]
    if changed:
        raise UsageError(
            f"{', '.join(changed)} of the recipe differ from the study in {plan.output}. Continue with that recipe, or "
            "give another output."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, json.dumps(settings))


def _run_side_by_side(plan: StudyConfig, jobs: list[Job], report: Callable[[str], None]) -> None:
    context = get_context("spawn")
    with ProcessPoolExecutor(plan.processes, context, exit_with_parent) as pool:
        for line in pool.map(partial(run_job, plan), jobs):
            report(line)


def exit_with_parent() -> None:
    """End this process when the one that started it ends, so that no killed study goes on training."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_job(plan: StudyConfig, job: Job) -> str:
    """Train and measure one job and write its result; return a line to report."""
    run = StartTrainer(plan.scene_config(job), _ignore) if job.condition is None else StudyTrainer(plan, job, _ignore)
    result: dict[str, Any] = {"steps": run.recipe.stages[0].steps, "failure": None}
    try:
        run.run()
    except DivergedError as error:
        result["failure"] = str(error)
    if run.step_seconds:  # none if a kill came after the end of training; the log has them then
        run.log(seconds_per_step=statistics.median(run.step_seconds))
    result |= read_log(run.folder)
    if isinstance(run, StudyTrainer) and result["failure"] is None:
        if job.stage == "tokenizer":
            run.save_tokenizer()
        measured, seconds = timed_alone(MEASURE[job.stage], run)
        result |= {**measured, "measuring_seconds": seconds}
    write_file(run.folder / RESULT, json.dumps(result))
    return f"{job.name}: {result['failure'] or 'finished'}"


def _ignore(line: str) -> None:
    """Drop a line of a run; its log has it."""


def summarize(plan: StudyConfig, results: dict[Job, dict[str, Any]]) -> dict[str, Any]:
    """Group results by stage, condition and seed, with the origin of the figures."""
    stages: dict[str, Any] = {stage: {} for stage in STAGES}
    for job, result in results.items():
        name = job.condition.name if job.condition else job.stage
        stages[job.stage].setdefault(name, {})[str(job.seed)] = result
    tokens = {condition.name: condition.tokens for condition in plan.parse_conditions()}
    means = {name: mean_of(list(seeds.values())) for name, seeds in stages["reading"].items()}
    origin: dict[str, Any] = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    origin |= {"machine": machine(), "versions": versions()}
    return {**origin, "recipe": asdict(plan), "tokens": tokens, "means": means, **stages}


def mean_of(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Average the seeds of a condition: right answers, in all and per task, and the range of the seeds."""
    finished = [result for result in results if result["failure"] is None]
    failures = {"failures": len(results) - len(finished)}
    if not finished:
        return failures
    shares = [result["right"]["share"] for result in finished]
    return {
        **failures,
        "right": _mean([result["right"] for result in finished]),
        "shuffled": _mean([result["shuffled"] for result in finished]),
        "seeds": [min(shares), max(shares)],
        "tasks": {task: _mean([result["tasks"][task] for result in finished]) for task in finished[0]["tasks"]},
    }


def _mean(entries: list[dict[str, float]]) -> dict[str, float]:
    """Average fractions and the ends of their intervals, which stay as wide: all seeds are asked the same questions."""
    return {key: round(statistics.fmean(entry[key] for entry in entries), 4) for key in ("n", "share", "low", "high")}


def estimate(plan: StudyConfig) -> dict[Job, float]:
    """Run every job for a few steps in a temporary folder; return the CPU seconds that the whole job would take."""
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(plan, output=folder, results=f"{folder}/results.json", test_scenes=4, judged_scenes=4)
        short = {stage: replace(getattr(plan, stage), steps=TRIAL_STEPS) for stage in STAGES}
        trial = replace(trial, seeds=plan.seeds[:1], drawing_seeds=plan.drawing_seeds[:1], processes=1, **short)
        packed()  # opened once, so no job's time has it
        run_study(trial, _ignore)
        found = {}
        for job in plan.jobs():
            seed = 0 if job.stage in STARTS else getattr(trial, _SEEDS[job.stage])[0]
            result = json.loads((trial.folder(replace(job, seed=seed)) / RESULT).read_text(encoding="utf-8"))
            scenes = plan.test_scenes if job.stage == "reading" else plan.judged_scenes
            training = getattr(plan, job.stage).steps * result["seconds_per_step"]
            found[job] = training + result.get("measuring_seconds", 0.0) * scenes / 4
        return found


_SEEDS = {"reading": "seeds", "drawing": "drawing_seeds"}
