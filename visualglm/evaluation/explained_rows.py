"""Explain some of the worst answers of a run, for its report: the image, the map over it, and whether the map holds."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import islice

from ..conversation import VisualGLM
from ..errors import VisualGLMError
from ..explanation.drawing import overlay_map
from ..explanation.explanation import describe_deletion
from ..preprocessing.images import open_image
from ..preprocessing.prompt import Language as PromptLanguage
from ..reporting.html_page import thumbnail
from .queries import ScoredRow
from .report import worst_rows
from .report_texts import TEXTS
from .scenes.kinds import Language

SIDE = 224
"""Largest side of the images, in pixels."""


def explain_worst(
    model: VisualGLM, rows: Sequence[ScoredRow], count: int, asked_in: PromptLanguage, language: Language
) -> list[str]:
    """Explain the first answer of the `count` worst rows that have an image and an answer; return pieces of HTML."""
    able = (row for row in worst_rows(rows) if row.image and not row.errors and row.said and row.said[0][1].strip())
    return [_explain_row(model, row, asked_in, language) for row in islice(able, count)]


def _explain_row(model: VisualGLM, row: ScoredRow, asked_in: PromptLanguage, language: Language) -> str:
    """Build the piece of one row; one that cannot be explained says why."""
    question, answer = row.said[0]
    assert row.image is not None
    said = f"<p>{html.escape(question)}<br><strong>{html.escape(answer)}</strong></p>"
    try:
        image = open_image(row.image()).convert("RGB")
        explanation = model.explain(image, question, asked_in, answer=answer)
    except (VisualGLMError, OSError) as error:
        reason = TEXTS[language]["unexplained"].format(reason=error)
        return f'<section>{said}<p class="wrong">{html.escape(reason)}</p></section>'
    mark = "" if explanation.exceeds_chance else ' class="wrong"'
    figure = f"<p{mark}>{html.escape(describe_deletion(explanation))}</p>"
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    over = overlay_map(small, explanation.explained)
    images = f"<p>{thumbnail(small, 'image', SIDE)} {thumbnail(over, 'map', SIDE)}</p>"
    return f"<section>{said}{images}{figure}</section>"
