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

from visualglm.evaluation.scenes.answers import a_category, background, counted, is_a
from visualglm.evaluation.scenes.concepts import by_key, families
from visualglm.evaluation.scenes.kinds import BACKGROUNDS, CATEGORIES, Kind, Language
from visualglm.evaluation.scenes.qa_pair import QAPair, pick
from visualglm.evaluation.scenes.question_templates import QUESTIONS

from .imagenet_classes import named_kinds
from .open_questions import open_question

LIKELY, AGREED = 0.7, 0.7
KEPT_FOR_TESTS = 2
"""Wordings at the end of the list of questions that are never trained on, to test paraphrases."""
OPEN_SHARE = 0.15
FORMS = {"name": 0.5, "list": 0.25, "category": 0.12, "describe": 0.13}
"""Fraction of the questions that have each form."""
IT_IS: dict[Language, str] = {"zh": "这是{}。", "en": "It is {}."}
THERE_IS: dict[Language, str] = {"zh": "图中有{}。", "en": "There is {}."}
NOT_SURE: dict[Language, str] = {"zh": "我不确定这是什么。", "en": "I am not sure what this is."}


def question_about(opinion: Tensor, language: Language, rng: Generator) -> QAPair:
    """Ask what an image shows, or sometimes what no image can tell; the answer follows the opinion [kinds]."""
    if rng.random() < OPEN_SHARE:
        return open_question(language, rng)
    task = str(rng.choice(list(FORMS), p=list(FORMS.values())))
    question = pick(rng, QUESTIONS[task][language][:-KEPT_FOR_TESTS])
    if task == "category":
        return QAPair(task, language, question, category_for(opinion, language), "")
    return QAPair(task, language, question, answer_for(opinion, language, IT_IS if task == "name" else THERE_IS), "")


def about_background(language: Language, rng: Generator) -> QAPair:
    """Ask a photograph for its background."""
    wordings = [text for text in QUESTIONS["background"][language] if "背景" in text or "background" in text]
    question = pick(rng, wordings)
    return QAPair("background", language, question, background(BACKGROUNDS[-1], language), "")


def category_for(opinion: Tensor, language: Language) -> str:
    """State the category that the kinds agree on, or say that it is not sure."""
    key, chance = _agreed(opinion, _members_of_categories())
    if chance < AGREED:
        return NOT_SURE[language]
    return is_a(named_kinds()[int(_members_of_categories()[key][0])], language)


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
        key, agreed = _agreed(opinion, members)
        if agreed >= AGREED:
            return say(key)
    return NOT_SURE[language]


def _agreed(opinion: Tensor, members: dict[str, Tensor]) -> tuple[str, float]:
    """Return the most likely group of kinds and its probability."""
    sums = {key: float(opinion[numbers].sum()) for key, numbers in members.items()}
    key = max(sums, key=lambda key: sums[key])
    return key, sums[key]


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
