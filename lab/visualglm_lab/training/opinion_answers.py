"""What to answer to "what is this?", given the probabilities of kinds.

A likely kind is named. Otherwise the answer is the family that the kinds agree on (a bird), else their category, and
else that the model is not sure. The answers are training targets: no code of the product knows them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from numpy.random import Generator
from torch import Tensor

from visualglm.evaluation.scenes.answers import a_category, counted
from visualglm.evaluation.scenes.concepts import by_key, families
from visualglm.evaluation.scenes.kinds import CATEGORIES, Kind, Language
from visualglm.evaluation.scenes.qa_pair import QAPair, pick
from visualglm.evaluation.scenes.question_templates import QUESTIONS

from .imagenet_classes import named_kinds
from .open_questions import open_question

LIKELY, AGREED = 0.5, 0.65
KEPT_FOR_TESTS = 2
"""Wordings at the end of the list of questions that are never trained on, to test paraphrases."""
OPEN_SHARE, LIST_SHARE = 0.15, 0.3
IT_IS: dict[Language, str] = {"zh": "这是{}。", "en": "It is {}."}
THERE_IS: dict[Language, str] = {"zh": "图中有{}。", "en": "There is {}."}
NOT_SURE: dict[Language, str] = {"zh": "我不确定这是什么。", "en": "I am not sure what this is."}


def question_about(opinion: Tensor, language: Language, rng: Generator) -> QAPair:
    """Ask what an image shows, or sometimes what no image can tell; the answer follows the opinion [kinds]."""
    if rng.random() < OPEN_SHARE:
        return open_question(language, rng)
    task = "list" if rng.random() < LIST_SHARE else "name"
    question = pick(rng, QUESTIONS[task][language][:-KEPT_FOR_TESTS])
    return QAPair(task, language, question, answer_for(opinion, language, THERE_IS if task == "list" else IT_IS), "")


def answer_for(opinion: Tensor, language: Language, form: dict[Language, str] = IT_IS) -> str:
    """Name the likely kind, the family or the category of the likely kinds, or say that it is not sure.

    `form` is the sentence that states a kind in place of `{}`.
    """
    chance, best = opinion.max(-1)

    def state(kind: Kind) -> str:
        return form[language].format(counted(1, kind, None, language))

    if chance >= LIKELY:
        return state(named_kinds()[int(best)])
    groups: tuple[tuple[dict[str, Tensor], Callable[[str], str]], ...] = (
        (_members_of_families(), lambda key: state(by_key()[key])),
        (_members_of_categories(), lambda key: _unsure_but(key, language)),
    )
    for members, say in groups:
        sums = {key: float(opinion[numbers].sum()) for key, numbers in members.items()}
        key = max(sums, key=lambda key: sums[key])
        if sums[key] >= AGREED:
            return say(key)
    return NOT_SURE[language]


def _unsure_but(key: str, language: Language) -> str:
    name = a_category(key, language)
    return f"我不确定，只看得出是{name}。" if language == "zh" else f"I am not sure, but it is {name}."


@lru_cache(maxsize=1)
def _members_of_families() -> dict[str, Tensor]:
    """Map a wide kind to the numbers of its kinds; a family with two wide names is called by neither."""
    number = {kind.key: index for index, kind in enumerate(named_kinds())}
    members = {}
    for wide, keys in families():
        numbers = [number[key] for key in keys if key in number]
        if len(wide) == 1 and len(numbers) > 1:
            members[next(iter(wide))] = torch.tensor(numbers)
    return members


@lru_cache(maxsize=1)
def _members_of_categories() -> dict[str, Tensor]:
    numbers = {key: [i for i, kind in enumerate(named_kinds()) if kind.category == key] for key in CATEGORIES}
    return {key: torch.tensor(found) for key, found in numbers.items() if found}
