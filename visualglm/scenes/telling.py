"""scenes/telling: dialogues without a picture: scenes told in words, and what is known of things by their names.

The language model learns from them, before it sees anything, to look up, count and compare what it was told; where a
picture comes later, it stands in the place of the words. Knows nothing about pictures.
"""

from __future__ import annotations

from dataclasses import replace

from numpy.random import Generator

from . import speech
from .compose import Mix, Scene, scene_of
from .concepts import LETTER, kinds
from .dialogue import TASKS, exchange_of
from .exchange import Exchange, ask, pick
from .vocabulary import Language

ANYTHING = Mix(anything=True)
UNTOLD = ("size", "off topic", "describe")  # what a description does not tell, or what it is


def told_scene(seed: int, most: int, least: int) -> Scene:
    """A scene of any things at all, coloured as if drawn; it is told, never painted."""
    return scene_of(seed, most, least, mix=ANYTHING)


def told(task: str, scene: Scene, language: Language, rng: Generator) -> Exchange | None:
    """An exchange about a scene, with the scene's description in the place of its picture."""
    exchange = None if task in UNTOLD else exchange_of(task, scene, language, rng)
    if exchange is None:
        return None
    text = speech.description(scene, language) + (" " if language == "en" else "")
    if not exchange.history:
        return replace(exchange, question=text + exchange.question, with_picture=False)
    (question, answer), *later = exchange.history
    return replace(exchange, history=((text + question, answer), *later), with_picture=False)


def known(language: Language, rng: Generator) -> Exchange:
    """What sort of thing something is, or its name in the other language."""
    kind = pick(rng, kinds())
    noun = speech.noun(kind, language)
    if rng.random() < 0.5 or kind.category == LETTER:
        question = ask(rng, "is of", language, x=speech.some(noun, kind, None, language))
        answer = speech.is_of(kind, language)
        return Exchange("is of", language, question, answer, speech.category(kind.category, language), (), False)
    question, answer = ask(rng, "called", language, x=noun), speech.called(kind, language)
    truth = speech.noun(kind, "en" if language == "zh" else "zh")
    return Exchange("called", language, question, answer, truth, (), False)


def tellable() -> tuple[str, ...]:
    """The tasks that can be asked of a told scene."""
    return tuple(task for task in TASKS if task not in UNTOLD)
