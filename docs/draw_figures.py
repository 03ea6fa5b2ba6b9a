"""Draw docs/images/evaluation_*.svg from benchmarks/results/evaluate_mini.json, in the look of the reports.

Run: `python docs/draw_figures.py` (`make evaluate-mini` does). The light variants are for pages without themes.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from visualglm.evaluation.report_texts import TEXTS
from visualglm.evaluation.scenes.kinds import LANGUAGES, Language
from visualglm.reporting.plots import Interval, draw_intervals, plot_file

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
RESULTS = ROOT / "benchmarks" / "results" / "evaluate_mini.json"
ROW_INCHES = 0.4
FORMS: dict[Language, dict[str, str]] = {
    "en": {"base": "16 bits", "8 bits": "8 bits", "4 bits": "4 bits", "adapter": "counting adapter"},
    "zh": {"base": "16 位", "8 bits": "8 位", "4 bits": "4 位", "adapter": "计数适配器"},
}
AXIS: dict[Language, tuple[str, str]] = {
    "en": ("fraction right, 95 % interval", "difference from the unchanged model, 95 % interval"),
    "zh": ("正确率，95% 区间", "与原模型的差值，95% 区间"),
}


def main() -> None:
    """Draw both figures in both languages."""
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    for language in LANGUAGES:
        suffix = "" if language == "en" else f"_{language}"
        for name, draw in (("evaluation_scenes", draw_scenes), ("evaluation_differences", draw_differences)):
            height = 1.2 + ROW_INCHES * len(tests(record))
            plot_file(IMAGES / f"{name}{suffix}.svg", partial(draw, record=record, language=language), height=height)


def tests(record: dict[str, Any]) -> list[str]:
    """List the tests of the scenes task."""
    return list(record["forms"]["base"]["scenes"]["metrics"])


def interval(entry: dict[str, Any] | None) -> Interval | None:
    """Read a value with its interval."""
    if entry is None or entry["value"] is None:
        return None
    return Interval(entry["value"], min(entry["low"], entry["value"]), max(entry["high"], entry["value"]))


def draw_scenes(axes: Axes, record: dict[str, Any], language: Language) -> None:
    """Draw what each form reaches on the scenes."""
    names = tests(record)
    series = {
        FORMS[language][form]: [interval(tasks["scenes"]["metrics"].get(name)) for name in names]
        for form, tasks in record["forms"].items()
    }
    draw_intervals(axes, [TEXTS[language].get(name, name) for name in names], series, (-0.02, 1.02))
    axes.set_xlabel(AXIS[language][0])


def draw_differences(axes: Axes, record: dict[str, Any], language: Language) -> None:
    """Draw how each form differs from the unchanged model, row by row."""
    names = tests(record)
    series = {
        FORMS[language][form]: [interval(tasks["scenes"].get(name)) for name in names]
        for form, tasks in record["differences"].items()
    }
    axes.axvline(0, color=axes.xaxis.label.get_color(), linewidth=1)
    draw_intervals(axes, [TEXTS[language].get(name, name) for name in names], series, (-0.6, 0.6))
    axes.set_xlabel(AXIS[language][1])


if __name__ == "__main__":
    main()
