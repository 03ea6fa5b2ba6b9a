"""Dialogues without an image: described scenes, and facts about kinds.

With them the language model learns to look up, count and compare before it sees images. Later an image takes the
place of the description.
"""

from __future__ import annotations

from dataclasses import replace

from numpy.random import Generator

from visualglm.evaluation.scenes import answers
from visualglm.evaluation.scenes.concepts import LETTER, kinds
from visualglm.evaluation.scenes.kinds import Language
from visualglm.evaluation.scenes.qa_pair import QAPair, ask, pick
from visualglm.evaluation.scenes.questions import TASKS, exchange_of
from visualglm.evaluation.scenes.scene import Scene, SceneMix, scene_of

ANYTHING = SceneMix(anything=True)
UNTOLD = ("size", "off topic", "describe")  # what a description does not tell, or what it is


def told_scene(seed: int, most: int, least: int) -> Scene:
    """Generate a scene of arbitrary kinds, with colours as if drawn; it is described, never rendered."""
    return scene_of(seed, most, least, mix=ANYTHING)


def told(task: str, scene: Scene, language: Language, rng: Generator) -> QAPair | None:
    """Generate a question about a scene, with the scene's description in place of its image."""
    exchange = None if task in UNTOLD else exchange_of(task, scene, language, rng)
    if exchange is None:
        return None
    text = answers.description(scene, language) + (" " if language == "en" else "")
    if not exchange.history:
        return replace(exchange, question=text + exchange.question, with_image=False)
    (question, answer), *later = exchange.history
    return replace(exchange, history=((text + question, answer), *later), with_image=False)


def known(language: Language, rng: Generator) -> QAPair:
    """Ask for the category of a kind, or for its name in the other language."""
    kind = pick(rng, kinds())
    noun = answers.noun(kind, language)
    if rng.random() < 0.5 or kind.category == LETTER:
        question = ask(rng, "is of", language, x=answers.some(noun, kind, None, language))
        answer = answers.is_of(kind, language)
        return QAPair("is of", language, question, answer, answers.category(kind.category, language), (), False)
    question, answer = ask(rng, "called", language, x=noun), answers.called(kind, language)
    truth = answers.noun(kind, "en" if language == "zh" else "zh")
    return QAPair("called", language, question, answer, truth, (), False)


def tellable() -> tuple[str, ...]:
    """List the tasks that can be asked about a described scene."""
    return tuple(task for task in TASKS if task not in UNTOLD)
