"""Evaluate later questions of dialogues, with the model's own answers as history.

Dialogues of `scenes.questions` are asked turn by turn. The main result is how often the last answer is right if the
answer that it refers to was right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from visualglm.conversation import VisualGLM
from visualglm.evaluation.answer_matching import is_right
from visualglm.evaluation.batch_answering import AskedQuestion, answer_all
from visualglm.evaluation.confidence import fraction_of, group_baseline
from visualglm.evaluation.scenes.kinds import LANGUAGES
from visualglm.evaluation.scenes.qa_pair import QAPair
from visualglm.evaluation.scenes.questions import after_other_turns, exchange_of
from visualglm.evaluation.scenes.scene import Scene

from .scene_eval import group_of

LATER = ("colour", "where", "exists", "count")


@dataclass(frozen=True)
class Spoken:
    """A finished dialogue: last question with the model's own history, and whether the previous answer was right."""

    asked: AskedQuestion
    before_right: bool


def follow_ups(scenes: Sequence[Scene], each: int = 2) -> list[AskedQuestion]:
    """Generate dialogues whose last question is about 'it'."""
    asked = []
    for index, scene in enumerate(scenes):
        for number in range(each):
            for language in LANGUAGES:
                exchange = exchange_of("follow-up", scene, language, np.random.default_rng((scene.seed, 100 + number)))
                asked += [AskedQuestion(index, exchange)] if exchange else []
    return asked


def later_questions(scenes: Sequence[Scene], tasks: Sequence[str] = LATER) -> list[AskedQuestion]:
    """Generate questions that do not depend on the one or two turns before them."""
    asked = []
    for index, scene in enumerate(scenes):
        for number, task in enumerate(tasks):
            for language in LANGUAGES:
                rng = np.random.default_rng((scene.seed, number))
                exchange = exchange_of(task, scene, language, rng)
                if exchange is not None and exchange.task == task:
                    asked.append(AskedQuestion(index, after_other_turns(exchange, scene, rng)))
    return asked


def run_dialogues(model: VisualGLM, asked: Sequence[AskedQuestion], images: Tensor) -> list[Spoken]:
    """Run every dialogue turn by turn, with the model's own answers as history."""
    went: list[tuple[tuple[str, str], ...]] = [() for _ in asked]
    for turn in range(max(len(a.exchange.history) for a in asked)):
        live = [i for i, a in enumerate(asked) if len(a.exchange.history) > turn]
        now = [AskedQuestion(asked[i].image, _turn(asked[i].exchange, turn, went[i])) for i in live]
        for i, one in zip(live, answer_all(model, now, images), strict=True):
            went[i] = (*went[i], (one.exchange.question, one.answer))
    last = [replace(a, exchange=replace(a.exchange, history=h)) for a, h in zip(asked, went, strict=True)]
    said = answer_all(model, last, images)
    return [Spoken(s, bool(h) and h[-1] == a.exchange.history[-1]) for s, h, a in zip(said, went, asked, strict=True)]


def _turn(exchange: QAPair, turn: int, went: tuple[tuple[str, str], ...]) -> QAPair:
    """Make an earlier turn a question of its own, after the previous answers."""
    return replace(exchange, question=exchange.history[turn][0], history=went)


def evaluate_dialogues(
    model: VisualGLM, scenes: Sequence[Scene], images: Tensor
) -> tuple[dict[str, Any], list[Spoken]]:
    """Compute results per language: after a right first answer, after any, and with another scene's image.

    Later questions are asked about half of the scenes.
    """
    spoken = run_dialogues(model, follow_ups(scenes), images)
    right = [s.asked for s in spoken if s.before_right]
    other = answer_all(model, right, images, shift=1)
    later = run_dialogues(model, later_questions(scenes[: -(-len(scenes) // 2)]), images)
    table: dict[str, Any] = {}
    for language in LANGUAGES:
        rows = [a for a in right if a.exchange.language == language]
        entry: dict[str, Any] = _share(rows)
        entry["majority"] = group_baseline([(group_of(a), a.exchange.truth) for a in rows])
        entry["shuffled"] = _share([a for a in other if a.exchange.language == language])
        every = [s.asked for s in spoken if s.asked.exchange.language == language]
        first = [s.before_right for s in spoken if s.asked.exchange.language == language]
        entry |= {"after any answer": _share(every), "first answer": fraction_of(first)}
        again = [s.asked for s in later if s.asked.exchange.language == language]
        entry["later questions"] = {task: _share([a for a in again if a.exchange.task == task]) for task in LATER}
        table[language] = entry
    return table, spoken


def _share(rows: Sequence[AskedQuestion]) -> dict[str, Any]:
    return dict(fraction_of([is_right(a.exchange, a.answer) for a in rows]))
