"""Images and scores of the task in presence.yaml."""

from __future__ import annotations

from typing import Any

from PIL import Image

from visualglm.evaluation.yes_no import yes_or_no


def images(row: dict[str, Any]) -> list[Image.Image]:
    """Open the image of a row."""
    return [Image.open(row["image"]).convert("RGB")]


def score(row: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Compare an answer with the truth."""
    return {"right": float(yes_or_no(answers[0]) == row["answer"])}
