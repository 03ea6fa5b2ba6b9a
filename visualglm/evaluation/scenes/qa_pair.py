"""One question with its true answer, and what every maker of questions needs.

Wordings are chosen by a random generator; an object is named so that no other could be meant. Knows nothing about which
questions there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from numpy.random import Generator

from ...preprocessing.prompt import Turn
from .concepts import kinds, overlap
from .kinds import KINDS, Kind, Language
from .question_templates import QUESTIONS
from .scene import Scene, SceneItem

T = TypeVar("T")


@dataclass(frozen=True)
class QAPair:
    """One question with its true answer; `history` holds the turns before it, oldest first."""

    task: str
    language: Language
    question: str
    answer: str
    truth: str
    history: tuple[tuple[str, str], ...] = ()
    with_image: bool = True

    @property
    def turns(self) -> list[Turn]:
        """The dialogue for `build_prompt`, unanswered at its end; the picture stands before the first turn."""
        turns = [*(Turn(question, answer) for question, answer in self.history), Turn(self.question)]
        return [replace(turns[0], pictures=int(self.with_image)), *turns[1:]]


def pick(rng: Generator, choices: tuple[T, ...] | list[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def ask(rng: Generator, task: str, language: Language, **words: str) -> str:
    return pick(rng, QUESTIONS[task][language]).format(**words)


def name(rng: Generator, kind: Kind, language: Language) -> str:
    """Mostly the usual name, sometimes a synonym."""
    names = kind.zh if language == "zh" else kind.en
    return names[0] if rng.random() < 0.6 else pick(rng, names)


def single(scene: Scene) -> list[SceneItem]:
    """The objects that no other could be taken for by name."""
    return [item for item in scene.items if sum(overlap(item.kind, other) for other in scene.kinds) == 1]


def absent(scene: Scene, rng: Generator, like: Kind) -> Kind:
    """A kind that the scene does not show, of the same sort: another drawn kind, or another of the category."""
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
