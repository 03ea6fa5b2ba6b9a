"""`report.html`: loss curves, scores, and held-out rows with the answers before and after training.

The page is one file: images are embedded, and there are no scripts, fonts or links. All text from data or models is
escaped.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..files.atomic import write_file
from ..preprocessing.images import open_image
from ..reporting.html_page import page, thumbnail
from ..reporting.plots import draw_curves, themed_plot
from .evaluation import EvalQuestion, is_right

LOSSES = {"loss": "training", "eval_loss": "validation"}


@dataclass(frozen=True)
class Answered:
    """Questions, and their answers before and after training."""

    asked: list[EvalQuestion]
    before: list[str]
    after: list[str]


def write_report(
    file: Path, metrics: list[dict[str, Any]], facts: list[str], held_out: Answered, probe: Answered
) -> None:
    """Write the page."""
    pieces = [f"<p>{html.escape(fact)}</p>" for fact in facts]
    pieces += ["<h2>Loss</h2>", curves(metrics)]
    pieces += ["<h2>Held-out rows</h2>", _table(held_out), "<h2>Questions outside the data</h2>", _table(probe)]
    write_file(file, page("Fine-tuning report", pieces))


def curves(metrics: list[dict[str, Any]]) -> str:
    """Draw training and validation loss over steps."""
    points = {name: [(row["step"], row[key]) for row in metrics if key in row] for key, name in LOSSES.items()}
    shown = {name: line for name, line in points.items() if line}
    if not shown:
        return "<p>no losses were logged</p>"
    return themed_plot(partial(draw_curves, curves=shown, x_label="step", y_label="loss"), "loss over steps")


def _table(answered: Answered) -> str:
    rows = zip(answered.asked, answered.before, answered.after, strict=True)
    body = "".join(_row(*row) for row in rows)
    heads = "".join(f"<th>{head}</th>" for head in ("images", "question", "expected", "before", "after"))
    return f"<table><tr>{heads}</tr>{body}</table>"


def _row(asked: EvalQuestion, before: str, after: str) -> str:
    images = "".join(thumbnail(open_image(path)) for path in asked.images)
    cells = [f"<td>{images}</td>", f"<td>{html.escape(asked.turns[-1].question)}</td>"]
    cells.append(f"<td>{html.escape(asked.wanted or '')}</td>")
    for said in (before, after):
        mark = "" if asked.wanted is None else "right" if is_right(asked, said) else "wrong"
        cells.append(f'<td class="{mark}">{html.escape(said)}</td>')
    return f"<tr>{''.join(cells)}</tr>"
