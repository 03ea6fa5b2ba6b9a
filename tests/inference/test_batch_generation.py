"""Batching: rows with their own images, lengths, sampling and seeds answer in one batch as each does alone."""

from __future__ import annotations

from typing import Any

import pytest

import visualglm
from visualglm.errors import UsageError
from visualglm.inference.batch_generation import GenerationRow, generate_batch, padded

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))
ASKED: list[tuple[int | None, str, dict[str, Any]]] = [
    (0, "描述这张图片。", {}),
    (1, "What is in the picture?", {"do_sample": True, "seed": 1, "temperature": 1.5}),
    (None, "猫是什么？", {"do_sample": True, "seed": 2, "top_p": 0.8, "repetition_penalty": 1.3}),
    (2, "How many objects are there?", {"max_new_tokens": 2}),
    (3, "这是什么？", {"preset": "sat", "seed": 3, "max_new_tokens": 12}),
    (3, "这是什么？", {"preset": "hf", "seed": 4, "max_length": 140}),
]


def rows(opened: visualglm.VisualGLM) -> list[GenerationRow]:
    images = [None if place is None else opened.encode(SAMPLES[place]) for place, _, _ in ASKED]
    return [
        opened.row(embeds, question, **sampling) for embeds, (_, question, sampling) in zip(images, ASKED, strict=True)
    ]


def test_every_row_says_what_ask_says(opened: visualglm.VisualGLM) -> None:
    batch = rows(opened)
    generate_batch(opened.model, batch)
    for row, (place, question, sampling) in zip(batch, ASKED, strict=True):
        alone = opened.ask(None if place is None else SAMPLES[place], question, **sampling)
        said = opened.row_answer(row, alone.seconds)
        assert said == alone, question


def test_a_row_ended_from_outside_leaves_the_others_alone(opened: visualglm.VisualGLM) -> None:
    expected, batch = rows(opened), rows(opened)
    generate_batch(opened.model, expected)
    batch[1].ended = True  # before the start: not run at all
    accept = batch[0].accept

    def end_after_two(index: int) -> None:
        accept(index)
        batch[0].ended = batch[0].ended or len(batch[0].ids) == 2

    batch[0].accept = end_after_two  # type: ignore[method-assign]
    generate_batch(opened.model, batch)
    assert batch[0].ids == expected[0].ids[:2]
    assert batch[1].ids == []
    assert [row.ids for row in batch[2:]] == [row.ids for row in expected[2:]]


def test_prompts_are_padded_on_the_left_and_answers_on_the_right() -> None:
    ids, mask, start = padded([[1, 2, 9], [4]], [[5], [6, 9]], 9)
    assert (ids.tolist(), start) == ([[1, 2, 9, 5, 9], [9, 9, 4, 6, 9]], 3)
    assert mask.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]], "what is said is no padding"


def test_beams_are_refused(opened: visualglm.VisualGLM) -> None:
    with pytest.raises(UsageError, match="num_beams"):
        opened.caption([SAMPLES[0]], "?", num_beams=2)
