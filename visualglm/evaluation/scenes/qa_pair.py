"""A question with its true answer, and helpers that build questions.

A random generator chooses the wording. Objects are named unambiguously.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from numpy.random import Generator

from ...preprocessing.prompt import Turn
from .concepts import kinds, names_without_article, overlap
from .kinds import KINDS, Kind, Language
from .question_templates import QUESTIONS
from .scene import Scene, SceneItem

T = TypeVar("T")


@dataclass(frozen=True)
class QAPair:
    """One question with its true answer; `history` has the earlier turns, oldest first.

    `truth` is the part of the answer that decides (a name, a colour, yes or no, ...); `with_image` is False for a
    dialogue without an image.
    """

    task: str
    language: Language
    question: str
    answer: str
    truth: str
    history: tuple[tuple[str, str], ...] = ()
    with_image: bool = True

    @property
    def turns(self) -> list[Turn]:
        """The dialogue for `build_prompt`: no answer in the last turn, the image before the first one."""
        turns = [*(Turn(question, answer) for question, answer in self.history), Turn(self.question)]
        return [replace(turns[0], image_count=int(self.with_image)), *turns[1:]]


def pick(rng: Generator, choices: tuple[T, ...] | list[T]) -> T:
    """Choose one element at random."""
    return choices[int(rng.integers(len(choices)))]


def ask(rng: Generator, task: str, language: Language, **words: str) -> str:
    """Choose a wording of a task's question and fill in the words."""
    return pick(rng, QUESTIONS[task][language]).format(**words)


def name(rng: Generator, kind: Kind, language: Language, countable: bool = True) -> str:
    """Return a kind's first name, or sometimes a synonym; with `countable` one that is singular."""
    names = kind.zh if language == "zh" else kind.en
    if countable:
        names = tuple(name for name in names if name not in names_without_article())
    return names[0] if rng.random() < 0.6 else pick(rng, names)


def single(scene: Scene) -> list[SceneItem]:
    """List the objects whose names identify them uniquely in the scene."""
    return [item for item in scene.items if sum(overlap(item.kind, other) for other in scene.kinds) == 1]


def absent(scene: Scene, rng: Generator, like: Kind) -> Kind:
    """Choose a kind that is not in the scene, usually similar to `like`: also drawn, or of the same category."""
    shown = set(scene.kinds)
    if like in KINDS and rng.random() < 0.7:
        pool = [kind for kind in KINDS if (kind.category == "shape") == (like.category == "shape")]
    elif rng.random() < 0.75:
        pool = [kind for kind in kinds() if kind.category == like.category]
    else:
        pool = list(kinds())
    for _ in range(20):
        kind = pick(rng, pool)
        if not any(overlap(kind, other) for other in shown):
            return kind
    return pick(rng, [kind for kind in kinds() if not any(overlap(kind, other) for other in shown)])
