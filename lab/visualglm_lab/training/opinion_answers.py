"""What to answer to "what is this?", given the probabilities of kinds.

A kind of which the classifier is nearly certain is named. Otherwise the answer is the family that its kinds agree on (a
bird), else a guess that says it is one, the classifier's or else the concept head's, else the category, and else that
the model is not sure. The answers are training targets: no code of the product knows them.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from numpy.random import Generator
from torch import Tensor

from visualglm.evaluation.scenes.answers import a_category, background, counted, is_a, noun
from visualglm.evaluation.scenes.concepts import by_key, families
from visualglm.evaluation.scenes.kinds import BACKGROUNDS, CATEGORIES, Kind, Language
from visualglm.evaluation.scenes.qa_pair import QAPair, pick
from visualglm.evaluation.scenes.question_templates import QUESTIONS

from .imagenet_classes import named_kinds
from .open_questions import open_question

SURE, LIKELY, AGREED = 0.9, 0.4, 0.7
"""Least probability of a kind or family that is stated, of a kind that is guessed, and of a category or a kind of the
concept head that is guessed."""
KEPT_FOR_TESTS = 2
"""Wordings at the end of the list of questions that are never trained on, to test paraphrases."""
OPEN_SHARE = 0.15
FORMS = {"name": 0.5, "list": 0.25, "category": 0.12, "describe": 0.13}
"""Fraction of the questions that have each form."""
IT_IS: dict[Language, str] = {"zh": "这是{}。", "en": "It is {}."}
THERE_IS: dict[Language, str] = {"zh": "图中有{}。", "en": "There is {}."}
GUESS: dict[Language, str] = {"zh": "我不确定，可能是{}。", "en": "I am not sure, but it may be {}."}
NOT_SURE: dict[Language, str] = {"zh": "我不确定这是什么。", "en": "I am not sure what this is."}


def question_about(opinion: Tensor, guess: Kind | None, language: Language, rng: Generator) -> QAPair:
    """Ask what an image shows, or sometimes what no image can tell; the answer follows the opinion [kinds].

    `guess` is what the concept head takes for likely.
    """
    if rng.random() < OPEN_SHARE:
        return open_question(language, rng)
    task = str(rng.choice(list(FORMS), p=list(FORMS.values())))
    question = pick(rng, QUESTIONS[task][language][:-KEPT_FOR_TESTS])
    if task == "category":
        return QAPair(task, language, question, category_for(opinion, language), "")
    answer = answer_for(opinion, language, IT_IS if task == "name" else THERE_IS, guess)
    return QAPair(task, language, question, answer, _name_in(answer, opinion, guess, language))


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


def answer_for(
    opinion: Tensor, language: Language, form: dict[Language, str] = IT_IS, guess: Kind | None = None
) -> str:
    """Name the kind or its family, guess the kind, name the category, or say that it is not sure.

    `form` is the sentence that states a kind in place of `{}`, `guess` what to guess where the opinion has no guess.
    """
    chance, best = opinion.max(-1)
    kind, name = named_kinds()[int(best)], form[language]
    if chance < SURE:
        key, agreed = _agreed(opinion, _members_of_families())
        if agreed >= SURE:
            kind = by_key()[key]
        elif chance >= LIKELY:
            name = GUESS[language]
        elif guess is not None:
            kind, name = guess, GUESS[language]
        else:
            key, agreed = _agreed(opinion, _members_of_categories())
            return _unsure_but(key, language) if agreed >= AGREED else NOT_SURE[language]
    return name.format(counted(1, kind, None, language))


def _name_in(answer: str, opinion: Tensor, guess: Kind | None, language: Language) -> str:
    """Return the name that an answer gives, of the likeliest kind or of the guess, else an empty text."""
    kinds = (named_kinds()[int(opinion.argmax(-1))], guess)
    return next((name for kind in kinds if kind and (name := noun(kind, language)) in answer), "")


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
