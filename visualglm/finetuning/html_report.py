"""`report.html`: loss curves, scores, and held-out rows with the answers before and after training.

The page is one file: images are embedded, and there are no scripts, fonts or links. All text from data or models is
escaped.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.atomic import write_file
from ..preprocessing.images import open_image
from ..reporting.html_page import page, thumbnail
from .evaluation import EvalQuestion, normalize_answer

WIDTH, HEIGHT = 640, 240


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
    pieces.append("<h2>Loss</h2>" + curves(metrics))
    pieces.append("<h2>Held-out rows</h2>" + _table(held_out))
    pieces.append("<h2>Questions outside the data</h2>" + _table(probe))
    write_file(file, page("Fine-tuning report", pieces))


def curves(metrics: list[dict[str, Any]]) -> str:
    """Draw training loss (blue) and validation loss (orange) over steps as SVG."""
    lines = {"loss": "#2266cc", "eval_loss": "#dd7711"}
    points = {key: [(row["step"], row[key]) for row in metrics if key in row] for key in lines}
    all_points = [point for line in points.values() for point in line]
    if not all_points:
        return "<p>no losses were logged</p>"
    last, top = max(step for step, _ in all_points), max(loss for _, loss in all_points) or 1.0
    polylines = []
    for key, line in points.items():
        coordinates = " ".join(
            f"{WIDTH * step / max(1, last):.1f},{HEIGHT * (1 - loss / top):.1f}" for step, loss in line
        )
        polylines.append(f'<polyline fill="none" stroke="{lines[key]}" stroke-width="2" points="{coordinates}"/>')
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" style="border:1px solid var(--line)"'
    svg = f"<svg {frame}>{''.join(polylines)}</svg>"
    return f"{svg}<p>blue: training, orange: validation; 0 to {top:.3g} over {last} steps</p>"


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
        mark = (
            ""
            if asked.wanted is None
            else "right"
            if normalize_answer(said) == normalize_answer(asked.wanted)
            else "wrong"
        )
        cells.append(f'<td class="{mark}">{html.escape(said)}</td>')
    return f"<tr>{''.join(cells)}</tr>"
