"""`VisualGLM.explain`, `visualglm explain` and the drawing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from PIL import Image

import visualglm
from visualglm.errors import UsageError
from visualglm.explanation.drawing import MOST_WORDS, draw_explanation

from ..adapters.conftest import made

Program = Callable[..., CompletedProcess]
STAR = str(visualglm.packed_model() / "samples" / "star.png")
ENGLISH = "What is in this image?"


def test_the_answer_is_that_of_ask_and_each_word_has_a_map(opened: visualglm.VisualGLM) -> None:
    explanation = opened.explain(STAR, ENGLISH, do_sample=False)
    assert explanation.answer == opened.ask(STAR, ENGLISH, do_sample=False).text
    assert [word.text for word in explanation.words][-1] in explanation.answer
    for word in (*explanation.words, explanation.explained):
        assert word.map.shape == (9, 9) and float(word.map.sum()) == pytest.approx(1, abs=1e-4)
    again = opened.explain(STAR, ENGLISH, do_sample=False)
    assert again.deletion == explanation.deletion


def test_an_adapter_is_explained_as_it_answers(opened: visualglm.VisualGLM, tmp_path: Path) -> None:
    base = str(visualglm.packed_model())
    tuned = visualglm.load(base, device="cpu", adapter=made(tmp_path / "lora", base, "lora", size=0.05))
    explanation = tuned.explain(STAR, ENGLISH, do_sample=False)
    assert explanation.answer == tuned.ask(STAR, ENGLISH, do_sample=False).text
    assert float(explanation.explained.map.sum()) == pytest.approx(1, abs=1e-4)
    plain = opened.explain(STAR, ENGLISH, do_sample=False)
    assert not torch.equal(explanation.explained.map, plain.explained.map)


def test_the_map_of_a_word_leads_to_the_object(opened: visualglm.VisualGLM) -> None:
    """The star of the sample image is in its upper right quarter, the cup in its lower left one."""
    for question, word in (("图里有什么？", "星形"), (ENGLISH, "star")):
        explanation = opened.explain(STAR, question, word=word, do_sample=False)
        row, column = divmod(int(explanation.explained.map.argmax()), 9)
        assert row < 4.5 < column, question
        assert [one.text for one in explanation.words] == [word]


def test_a_stop_string_ends_what_is_explained(opened: visualglm.VisualGLM) -> None:
    explanation = opened.explain(STAR, "图里有什么？", do_sample=False, stop="和")
    assert "".join(word.text for word in explanation.words) == explanation.answer


def test_an_unknown_method_is_refused_before_the_answer(opened: visualglm.VisualGLM) -> None:
    with pytest.raises(UsageError, match="Choose rollout or gradient"):
        opened.explain("missing.png", ENGLISH, method="saliency")  # type: ignore[arg-type]


def test_the_command_draws_and_prints_json(program: Program, tmp_path: Path) -> None:
    drawing = tmp_path / "explanation.png"
    arguments = ("explain", STAR, ENGLISH, "--greedy", "--word", "star", "-o", str(drawing), "--json")
    done = program(*arguments, "--method", "gradient")
    assert done.returncode == 0
    record = json.loads(done.stdout)
    assert record["model"] == "visualglm-mini" and record["method"] == "gradient"
    assert [word["text"] for word in record["words"]] == ["star"]
    assert sum(map(sum, record["words"][0]["map"])) == pytest.approx(1, abs=1e-3)
    deletion = record["deletion"]
    assert len(deletion["attended"]) == len(deletion["fractions"]) == len(deletion["random"][0])
    assert deletion["exceeds_chance"] == (deletion["low"] > 0)
    assert "Deletion curve: " in done.stderr
    with Image.open(drawing) as written:
        assert written.format == "PNG" and written.width > 700


def test_without_a_question_the_image_is_described_as_by_ask(program: Program) -> None:
    done = program("explain", STAR, "--greedy", "--language", "en")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == program("ask", STAR, "--greedy", "--language", "en").stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((STAR, ENGLISH, "-o", "drawing.jpg"), "neither .png nor .svg"),
        ((STAR, ENGLISH, "-o", "missing/drawing.png"), "its folder does not exist"),
        ((STAR, ENGLISH, "--greedy", "--word", "zebra"), "The answer has no word 'zebra'. Its words are:"),
        (("missing.png", ENGLISH), "missing.png"),
        ((STAR, " "), "question"),
    ],
)
def test_mistakes_are_one_sentence(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = program("explain", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_long_answer_is_drawn_in_part_and_a_bad_map_is_said(opened: visualglm.VisualGLM, tmp_path: Path) -> None:
    short = opened.explain(STAR, ENGLISH, do_sample=False)
    long = replace(
        short,
        words=short.words[:1] * (MOST_WORDS + 5),
        answer="costs $5 and $6 龘 " * 40,
        deletion=replace(short.deletion, low=-1.0),
    )
    draw_explanation(long, tmp_path / "long.svg", "dark")
    assert (tmp_path / "long.svg").read_bytes().startswith(b"<?xml")
    assert not long.exceeds_chance and torch.equal(long.explained.map, short.explained.map)
