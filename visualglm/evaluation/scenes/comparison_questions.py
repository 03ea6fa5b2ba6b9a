"""Questions that need reasoning: categories, sizes, equal colours, odd one out, insides.

In: a scene, a language, a random generator. Out: a `QAPair`, or None if the scene does not allow the question.
"""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from . import answers
from .kinds import AKIN, CATEGORIES, Language
from .qa_pair import QAPair, ask, name, pick, single
from .scene import Scene, SceneItem


def akin(one: str, other: str) -> bool:
    """Return True if objects of one category may also be counted to the other."""
    return one in AKIN.get(other, ()) or other in AKIN.get(one, ())


def of_category(item: SceneItem, question: str, language: Language) -> QAPair:
    truth = answers.category(item.kind.category, language)
    return QAPair("category", language, question, answers.is_a(item.kind, language), truth)


def category(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Ask for the category of the only object, or of the one in a zone."""
    item = pick(rng, scene.items)
    if item.frame:
        return None
    if len(scene.items) == 1:
        return of_category(item, ask(rng, "category", language), language)
    question = ask(rng, "category by place", language, x=answers.place(item.zone, language))
    return of_category(item, question, language)


def any_of(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Ask whether an object of a category is present; yes and no are equally frequent."""
    if scene.frames:
        return None
    shown, there = {item.kind.category for item in scene.items}, bool(rng.random() < 0.5)
    key = pick(rng, sorted(shown) if there else [key for key in CATEGORIES if key not in shown])
    if not there and any(akin(key, other) for other in shown):
        return None
    phrase = answers.a_category(key, language)
    answer = answers.yes_or_no(there, answers.category(key, language), language)
    return QAPair("any", language, ask(rng, "any", language, x=phrase), answer, "yes" if there else "no")


def _pair(
    scene: Scene, rng: Generator, fits: Callable[[SceneItem, SceneItem], bool]
) -> tuple[SceneItem, SceneItem] | None:
    alone = single(scene)
    pairs = [(a, b) for a in alone for b in alone if a is not b and fits(a, b)]
    return pick(rng, pairs) if pairs else None


def size(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Ask which of two objects is larger, if the difference is clear."""
    pair = _pair(scene, rng, lambda a, b: not a.frame and not b.frame and max(a.size / b.size, b.size / a.size) > 1.35)
    if pair is None:
        return None
    one, other = pair
    larger = one if one.size > other.size else other
    words = {"x": name(rng, one.kind, language), "y": name(rng, other.kind, language)}
    question = ask(rng, "size", language, **words)
    return QAPair("size", language, question, answers.is_larger(larger, language), answers.noun(larger.kind, language))


def same_colour(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    same = bool(rng.random() < 0.5)
    pair = _pair(scene, rng, lambda a, b: bool(a.colour and b.colour) and (a.colour == b.colour) == same)
    if pair is None:
        return None
    words = {"x": name(rng, pair[0].kind, language), "y": name(rng, pair[1].kind, language)}
    question, answer = ask(rng, "same colour", language, **words), answers.same_colour(same, language)
    return QAPair("same colour", language, question, answer, "yes" if same else "no")


def odd(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Ask which object is not of the category of all others."""
    categories = [item.kind.category for item in scene.items]
    odd_ones = [
        (item, other.kind.category)
        for item in scene.items
        for other in scene.items
        if len(scene.items) > 2 and categories.count(item.kind.category) == 1
        if categories.count(other.kind.category) == len(scene.items) - 1
    ]
    odd_ones = [(item, key) for item, key in odd_ones if not akin(key, item.kind.category)]
    if not odd_ones or scene.frames:
        return None
    item, key = pick(rng, odd_ones)
    question, answer = (
        ask(rng, "odd", language, x=answers.a_category(key, language)),
        answers.is_not(item, key, language),
    )
    return QAPair("odd", language, question, answer, answers.noun(item.kind, language))


def inside(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Ask what is inside the only circle or square."""
    alone = [(item, item.frame) for item in scene.items if item.frame and scene.kinds.count(item.frame.kind) == 1]
    if not alone:
        return None
    item, frame = pick(rng, alone)
    question = ask(rng, "inside", language, x=name(rng, frame.kind, language))
    return QAPair("name", language, question, answers.is_inside(item, language), answers.noun(item.kind, language))
