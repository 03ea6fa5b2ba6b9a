"""Questions that no drawn scene answers: greetings, who it is, persons, actions, places and times, sums, knowledge.

`lab/recipes/mini/open_questions.tsv` lists them by group; wordings for tests are never trained on. Every group has one
honest answer. The answers are training targets: no code of the product knows them.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import Literal

from numpy.random import Generator

from visualglm.evaluation.scenes.kinds import Language
from visualglm.evaluation.scenes.qa_pair import QAPair, pick
from visualglm.evaluation.scenes.question_templates import GREETED, NOT_SHOWN

TABLE = Path(__file__).parents[2] / "recipes" / "mini" / "open_questions.tsv"
Use = Literal["train", "test"]
ANSWERS: dict[str, dict[Language, str]] = {
    "greeting": GREETED,
    "identity": GREETED,
    "person": {"zh": "我不确定，我认不出人是谁。", "en": "I am not sure, I cannot tell who people are."},
    "action": NOT_SHOWN,
    "unseen": NOT_SHOWN,
    "knowledge": {
        "zh": "我不确定，我只会回答关于图片的问题。",
        "en": "I am not sure, I only answer questions about pictures.",
    },
}
WITHOUT_IMAGE = ("greeting", "identity", "knowledge")
"""Groups that are asked without an image, too."""


@lru_cache(maxsize=1)
def _table() -> tuple[dict[str, str], ...]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def wordings(group: str, language: Language, use: Use) -> list[str]:
    """List the questions of a group that are for training, or for tests."""
    return [
        row["question"] for row in _table() if (row["group"], row["language"], row["use"]) == (group, language, use)
    ]


def open_question(language: Language, rng: Generator, with_image: bool = True) -> QAPair:
    """Ask a training question of a random group; the answer is the group's."""
    group = pick(rng, tuple(ANSWERS) if with_image else WITHOUT_IMAGE)
    question = pick(rng, wordings(group, language, "train"))
    return QAPair(group, language, question, ANSWERS[group][language], "", (), with_image)
