"""The `scenes` task: seeds that no training sees, pairs that differ in one swap, exact truths."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from visualglm.evaluation.queries import Reply
from visualglm.evaluation.readers.drawn import FIRST_SEED, QUESTION_KINDS, drawn_examples
from visualglm.evaluation.scene_questions import scene_questions, swap_pairs
from visualglm.evaluation.scenes.qa_pair import QAPair
from visualglm.evaluation.scenes.render import render_scene
from visualglm.evaluation.scenes.split_seeds import RANGE, Split
from visualglm.evaluation.tasks.choice import LETTERS
from visualglm.evaluation.tasks.scenes import ScenesTask, is_true

ROOT = Path(__file__).parents[2]


def splits_in(folder: Path) -> set[str]:
    """Return the members of `Split` that a folder's code names."""
    return {
        node.attr
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Split"
    }


def test_training_draws_none_of_the_evaluations_seeds() -> None:
    """A split's seeds are a range of their own; training's code names training and validation alone."""
    assert splits_in(ROOT / "lab" / "visualglm_lab" / "training") == {"TRAIN", "VALIDATION"}
    for folder in ("pretraining", "finetuning", "training"):
        assert splits_in(ROOT / "visualglm" / folder) == set()
    first = Split.EVALUATION.value * RANGE
    drawn = {question.scene.seed for question in scene_questions(6)}
    drawn |= {int(row.image_key) for task in QUESTION_KINDS for row in drawn_examples(task, 3).rows}
    assert all(first <= seed < first + RANGE for seed in drawn)


def test_the_tasks_share_no_scene() -> None:
    starts = sorted(FIRST_SEED.values())
    assert min(np.diff(starts)) >= 1_000_000


def test_a_pair_differs_in_its_colours_alone() -> None:
    for original, swapped in swap_pairs(20):
        (a, b), (c, d) = original.items, swapped.items
        assert (a.colour, b.colour) == (d.colour, c.colour) and a.colour != b.colour
        assert [(i.kind, i.x, i.y, i.size) for i in (a, b)] == [(i.kind, i.x, i.y, i.size) for i in (c, d)]
        one, other = (np.asarray(render_scene(scene)) for scene in (original, swapped))
        assert one.shape == other.shape and (one != other).any()


def test_the_truth_of_a_question_is_in_its_scene() -> None:
    for question in scene_questions(30):
        scene, exchange = question.scene, question.exchange
        if question.test == "presence":
            assert exchange.truth == ("yes" if question.kind == "present" else "no")
        if question.test in ("binding", "wordings"):
            shown = {
                item.colour.zh if exchange.language == "zh" else item.colour.key for item in scene.items if item.colour
            }
            assert exchange.truth in shown
    ids = [question.id for question in scene_questions(10)]
    assert len(set(ids)) == len(ids)


def test_an_adversarial_question_joins_what_is_there_but_not_together() -> None:
    cases = [question for question in scene_questions(40) if question.kind == "adversarial"]
    assert len(cases) > 20
    for question in cases:
        names = [(item.kind.en[0], item.colour.key) for item in question.scene.items if item.colour]
        if question.exchange.language == "en":
            asked = question.exchange.question
            assert any(kind in asked for kind, _ in names) and any(colour in asked for _, colour in names)
            assert not any(f"{colour} {kind}" in asked for kind, colour in names)


def test_drawn_options_hold_the_truth_once() -> None:
    for row in drawn_examples("choice", 10).rows:
        assert len(set(row.options)) == 4 and row.references[0] in LETTERS[:4]


@pytest.mark.parametrize(
    "task, language, truth, answer, right",
    [
        ("colour", "en", "red", "The star is red.", True),
        ("colour", "en", "red", "The red star is on the left.", True),
        ("colour", "en", "red", "It is red or blue.", False),
        ("colour", "zh", "红色", "这个星形是红色的，在左边。", True),
        ("colour", "zh", "红色", "蓝色的", False),
        ("exists", "zh", "no", "没有，图中没有杯子。", True),
        ("name", "en", "letter Q", "I see the letter Q.", True),
        ("name", "en", "letter Q", "It is a white letter O.", False),
        ("relation", "en", "left", "It is to the left.", True),
    ],
)
def test_answers_in_other_words_are_judged_by_their_fact(
    task: str, language: str, truth: str, answer: str, right: bool
) -> None:
    assert is_true(QAPair(task, language, "", "", truth), answer) is right  # type: ignore[arg-type]


def perfect(task: ScenesTask, firm: bool) -> dict[str, Reply]:
    """Return replies that are all true; when doubted, firm ones stay so."""
    replies: dict[str, Reply] = {}
    truths = {question.id: question.exchange for question in task.asked}
    while waiting := [query for query in task.queries(replies) if query.id not in replies]:
        for query in waiting:
            doubted = query.id.startswith(("doubt/", "claim/"))
            exchange = truths[query.id.partition("/")[2] if doubted else query.id]
            text = {"yes": {"zh": "有。", "en": "Yes."}, "no": {"zh": "没有。", "en": "No."}}.get(exchange.truth, {})
            said = text.get(
                exchange.language, f"It is {exchange.truth}" if exchange.language == "en" else exchange.truth
            )
            if exchange.task == "count":
                said = f"There are {exchange.truth}" if exchange.language == "en" else f"有{exchange.truth}个"
            replies[query.id] = Reply(query.id, said if firm or not doubted else "Hm.")
    return replies


@pytest.mark.parametrize("firm", [True, False])
def test_true_answers_score_one_and_giving_in_is_seen(firm: bool) -> None:
    task = ScenesTask(8)
    scored = task.score(perfect(task, firm))
    by_metric: dict[str, list[float]] = {}
    for row in scored:
        for name, (value, _) in row.statistics.items():
            by_metric.setdefault(name, []).append(value)
    assert set(by_metric) == {metric.name for metric in task.metrics}
    for name, values in by_metric.items():
        assert set(values) == {0.0 if name.startswith("firm") and not firm else 1.0}, name


def test_one_wrong_image_of_a_pair_loses_the_pair() -> None:
    task = ScenesTask(4)
    replies = perfect(task, True)
    wrong = next(question.id for question in task.asked if question.test == "binding")
    replies[wrong] = Reply(wrong, "no idea")
    pairs = [row for row in task.score(replies) if "binding" in row.statistics]
    assert [row.quality for row in pairs].count(0.0) == 1 and len(pairs) == 4
