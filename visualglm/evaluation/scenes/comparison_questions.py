"""Questions that need more than one look: categories, sizes, same colours, odd ones out, insides.

In: a scene, a language, a random generator. Out: an `QAPair`, or None where the scene does not allow the question.
"""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from . import answers
from .kinds import AKIN, CATEGORIES, Language
from .qa_pair import QAPair, ask, name, pick, single
from .scene import Scene, SceneItem


def akin(one: str, other: str) -> bool:
    """Whether things of two categories may be called by either."""
    return one in AKIN.get(other, ()) or other in AKIN.get(one, ())


def of_category(item: SceneItem, question: str, language: Language) -> QAPair:
    truth = answers.category(item.kind.category, language)
    return QAPair("category", language, question, answers.is_a(item.kind, language), truth)


def category(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """What kind of thing the only object is, or the one at a place."""
    item = pick(rng, scene.items)
    if item.frame:
        return None
    if len(scene.items) == 1:
        return of_category(item, ask(rng, "category", language), language)
    question = ask(rng, "category by place", language, x=answers.place(item.zone, language))
    return of_category(item, question, language)


def any_of(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Whether anything of a category is there, evenly yes and no."""
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
    """Which of two is larger, where it is beyond doubt."""
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
    """Which one is not of the category that all the others are of."""
    categories = [item.kind.category for item in scene.items]
    strangers = [
        (item, other.kind.category)
        for item in scene.items
        for other in scene.items
        if len(scene.items) > 2 and categories.count(item.kind.category) == 1
        if categories.count(other.kind.category) == len(scene.items) - 1
    ]
    strangers = [(item, key) for item, key in strangers if not akin(key, item.kind.category)]
    if not strangers or scene.frames:
        return None
    item, key = pick(rng, strangers)
    question, answer = (
        ask(rng, "odd", language, x=answers.a_category(key, language)),
        answers.is_not(item, key, language),
    )
    return QAPair("odd", language, question, answer, answers.noun(item.kind, language))


def inside(scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """What stands inside the one circle or square that is there."""
    alone = [(item, item.frame) for item in scene.items if item.frame and scene.kinds.count(item.frame.kind) == 1]
    if not alone:
        return None
    item, frame = pick(rng, alone)
    question = ask(rng, "inside", language, x=name(rng, frame.kind, language))
    return QAPair("name", language, question, answers.is_inside(item, language), answers.noun(item.kind, language))
