"""Draw the figures of the study from its results, in the look of the reports.

Run: `python -m visualglm_lab.token_study.figures RESULTS.json FOLDER`; the folders of the runs hold the images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from visualglm.evaluation.scenes.kinds import LANGUAGES, Language
from visualglm.reporting.plots import Interval, draw_curves, draw_intervals, plot_file

from .config import Condition, Job
from .measurements import ORIGINALS, PICTURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_INCHES = 0.45
TEXTS: dict[Language, dict[str, str]] = {
    "en": {
        "right": "about the image",
        "shuffled": "about another image",
        "share": "fraction right, 95 % interval",
        "steps": "steps",
        "loss": "training loss, mean of the seeds",
    },
    "zh": {
        "right": "对应图片",
        "shuffled": "另一张图片",
        "share": "正确率，95% 区间",
        "steps": "步数",
        "loss": "训练损失（各种子的平均）",
    },
}


def draw_all(results: dict[str, Any], images: Path) -> None:
    """Draw every figure, those with words in both languages."""
    for language in LANGUAGES:
        suffix = "" if language == "en" else f"_{language}"
        drawn: dict[str, Callable[..., None]] = {
            "right": draw_right,
            "curves": draw_losses,
        }
        for name, draw in drawn.items():
            path = images / f"token_study_{name}{suffix}.svg"
            height = 1.2 + ROW_INCHES * len(results["tokens"])
            plot_file(path, partial(draw, results=results, language=language), height=height)
    if results["tokenizer"]:
        rows = picture_rows(results)
        draw_rows = partial(draw_pictures, rows=rows)
        plot_file(images / "token_study_pictures.png", draw_rows, height=0.3 + 0.8 * len(rows))


def draw_right(axes: Axes, results: dict[str, Any], language: Language) -> None:
    """Draw the right answers of each condition, also about another image than the one asked about."""
    texts, means = TEXTS[language], results["means"]
    series = {
        texts[key]: [_interval(means[name].get(key)) for name in results["tokens"]] for key in ("right", "shuffled")
    }
    draw_intervals(axes, list(results["tokens"]), series, (-0.02, 1.02))
    axes.set_xlabel(texts["share"])


def _interval(entry: dict[str, float] | None) -> Interval | None:
    return Interval(entry["share"], entry["low"], entry["high"]) if entry else None


def draw_losses(axes: Axes, results: dict[str, Any], language: Language) -> None:
    """Draw the mean training loss of each condition's seeds, up to the step that all of them reached."""
    curves = {}
    for name in results["tokens"]:
        seeds = [seed["curve"] for seed in results["reading"][name].values()]
        points = zip(*seeds, strict=False)  # a run that diverged ends early
        curves[name] = [(point[0][0], fmean(loss for _, loss in point)) for point in points]
    draw_curves(axes, curves, TEXTS[language]["steps"], TEXTS[language]["loss"])


def picture_rows(results: dict[str, Any]) -> dict[str, np.ndarray]:
    """Read the strips of images: originals, then reconstructions and drawings of each tokenizer."""
    runs = Path(results["recipe"]["output"])
    rows: dict[str, np.ndarray] = {}
    for name in results["tokenizer"]:
        condition = Condition("codes", results["tokens"][name])
        first = next(iter(results["drawing"].get(name, {})), "0")
        tokenizer, drawing = Job("tokenizer", condition), Job("drawing", condition, int(first))
        files = [("original", tokenizer, ORIGINALS), (name, tokenizer, PICTURES), (f"draw: {name}", drawing, PICTURES)]
        paths = {label: runs / job.name / file for label, job, file in files}
        rows |= {label: np.asarray(Image.open(path)) for label, path in paths.items() if path.exists()}
    return rows


def draw_pictures(axes: Axes, rows: dict[str, np.ndarray]) -> None:
    """Draw strips of images below each other, each with its name."""
    strips = np.concatenate(list(rows.values()))
    side = len(strips) // len(rows)
    axes.imshow(strips)
    axes.set_yticks([side * (row + 0.5) for row in range(len(rows))], list(rows))
    axes.set_xticks([])
    axes.grid(visible=False)


if __name__ == "__main__":
    draw_all(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
