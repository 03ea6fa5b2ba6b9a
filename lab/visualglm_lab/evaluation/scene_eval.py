"""Evaluate answers about unseen scenes, drawn or with real cut-outs.

Only test seeds are used. Every fraction has its n and its 95 % Wilson interval. Controls are the commonest answer,
and the model's answers when it is shown another scene's image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

from torch import Tensor

from visualglm.conversation import VisualGLM
from visualglm.evaluation.answer_matching import VERBATIM, YES_OR_NO, facts, is_right, same_fact
from visualglm.evaluation.batch_answering import AskedQuestion, answer_all
from visualglm.evaluation.confidence import fraction_of, group_baseline, mean_fraction
from visualglm.evaluation.encoded_scenes import MAX_OBJECTS, questions
from visualglm.evaluation.scenes.kinds import LANGUAGES, Language
from visualglm.evaluation.scenes.scene import Scene, SceneMix, scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds

from ..scenes.cutouts import Album

# asked again about another scene's image
CONTROLLED = ("name", "colour", "total", "count", "where", "relation", "exists", "category", "any")
CUT_OUTS = SceneMix(pasted=0.8, themes=0.1)
UNSEEN = ("held_out", "unseen_style")
# tasks whose questions allow only some of the facts; each group has its own commonest answer
GROUPS = ("colour", "where", "category")


def pasted_scenes(count: int, album: Album, split: Split = Split.TEST, most: int = MAX_OBJECTS) -> list[Scene]:
    """Generate scenes mostly of cut-outs; seeds start after a million, so drawn scenes never have them."""
    return [scene_of(seed, most=most, album=album, mix=CUT_OUTS) for seed in islice(seeds(split, 1_000_000), count)]


def evaluate_scenes(
    model: VisualGLM, scenes: Sequence[Scene], images: Tensor
) -> tuple[dict[str, Any], list[AskedQuestion]]:
    """Evaluate a model on scenes with the embeddings `images`; also return its answers."""
    asked = questions(scenes)
    answered = answer_all(model, asked, images)
    other = answer_all(model, [a for a in asked if a.exchange.task in CONTROLLED], images, shift=1)
    table = figures(answered, other)
    return {"scenes": len(scenes), "questions": len(asked), "tasks": table, "zh = en": agreement(answered)}, answered


def figures(asked: Sequence[AskedQuestion], shuffled: Sequence[AskedQuestion]) -> dict[str, Any]:
    """Compute n, fraction, interval, majority baseline and shuffled-image control per task and language."""
    table: dict[str, Any] = {}
    for task in dict.fromkeys(a.exchange.task for a in asked):
        for language in LANGUAGES:
            rows = [a for a in asked if (a.exchange.task, a.exchange.language) == (task, language)]
            other = [a for a in shuffled if (a.exchange.task, a.exchange.language) == (task, language)]
            entry = entry_of(rows)
            entry["shuffled"] = entry_of(other) if task in CONTROLLED else None
            table.setdefault(task, {})[language] = entry
    return table


def entry_of(rows: Sequence[AskedQuestion]) -> dict[str, Any]:
    """Compute n, fraction, interval and majority baseline; for yes and no, also the balanced accuracy."""
    entry: dict[str, Any] = fraction_of([is_right(a.exchange, a.answer) for a in rows])
    entry["majority"] = group_baseline([(group_of(a), a.exchange.truth) for a in rows])
    if rows and rows[0].exchange.task in YES_OR_NO:
        entry |= _balance(rows)
    return entry


def group_of(asked: AskedQuestion) -> str:
    """Return the type of fact that a question asks for, if its task has several (left or right, above or below)."""
    task, language, truth = asked.exchange.task, asked.exchange.language, asked.exchange.truth
    if task == "relation":
        return "side" if truth in facts(task, language)[:2] else "height"
    if task == "follow-up":
        return next(group for group in GROUPS if truth in facts(group, language))
    return task


def _balance(rows: Sequence[AskedQuestion]) -> dict[str, Any]:
    """Compute the fractions of right yes and right no answers, and their mean."""
    sides = {}
    for side in ("yes", "no"):
        sides[side] = fraction_of([is_right(a.exchange, a.answer) for a in rows if a.exchange.truth == side])
    return {**sides, "balanced": mean_fraction(*sides.values())}


def pairs_of(asked: Sequence[AskedQuestion]) -> list[tuple[AskedQuestion, AskedQuestion]]:
    """Pair Chinese and English answers to the same question: consecutive, with the same task and truth."""
    return [
        (zh, en)
        for zh, en in pairwise(asked)
        if (zh.exchange.language, en.exchange.language) == LANGUAGES
        if (zh.image, zh.exchange.task) == (en.image, en.exchange.task)
        if zh.exchange.task not in VERBATIM and same_fact_asked(zh, en)
    ]


def same_fact_asked(zh: AskedQuestion, en: AskedQuestion) -> bool:
    """Return True if the true answers state the same fact, so that the questions are the same."""
    return same_fact(zh.exchange.task, zh.exchange.answer, en.exchange.answer)


def agreement(asked: Sequence[AskedQuestion]) -> dict[str, Any]:
    """Compute how often the Chinese and the English answer to a question state the same fact, in all and per task."""
    pairs = pairs_of(asked)
    hits = [(zh.exchange.task, same_fact(zh.exchange.task, zh.answer, en.answer)) for zh, en in pairs]
    tasks = {task: fraction_of([hit for t, hit in hits if t == task]) for task in dict.fromkeys(t for t, _ in hits)}
    return {**fraction_of([hit for _, hit in hits]), "tasks": tasks}


def wrong_answers(asked: Sequence[AskedQuestion], each: int = 3) -> list[dict[str, Any]]:
    """Return the first wrong answers of every task and language."""
    shown: dict[tuple[str, Language], list[dict[str, Any]]] = {}
    for a in asked:
        if not is_right(a.exchange, a.answer):
            entry = {"scene": a.image, "task": a.exchange.task, "question": a.exchange.question}
            told = {"truth": a.exchange.answer, "answer": a.answer}
            shown.setdefault((a.exchange.task, a.exchange.language), []).append({**entry, **told})
    return [entry for entries in shown.values() for entry in entries[:each]]
