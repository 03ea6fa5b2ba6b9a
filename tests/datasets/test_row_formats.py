"""Rows as other tools write them: the same turns and images, and what is said of a row that no tool writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from visualglm.datasets.data_files import DataFile
from visualglm.datasets.row_files import RowError
from visualglm.datasets.row_formats import IMAGE_FIELDS, image_and_question
from visualglm.errors import UsageError
from visualglm.preprocessing.prompt import Turn

from ..conftest import REFERENCE

IMAGE = str(REFERENCE / "images" / "rgb.png")
USER, ASSISTANT = {"role": "user", "content": "one?"}, {"role": "assistant", "content": "yes"}

WAYS: dict[str, dict[str, Any]] = {
    "VisualGLM": {"img": IMAGE, "prompt": "one?", "label": "yes"},
    "messages": {"messages": [{"role": "user", "content": "<image>one?"}, ASSISTANT], "images": [IMAGE]},
    "messages without marks": {"messages": [USER, ASSISTANT], "images": [{"bytes": None, "path": IMAGE}]},
    "ms-swift": {"query": "<image>one?", "response": "yes", "history": [], "images": [IMAGE]},
    "ms-swift without marks": {"query": "one?", "response": "yes", "images": IMAGE, "history": None},
    "alpaca": {"instruction": "one?", "input": "", "output": "yes", "images": [IMAGE]},
    "LLaVA": {
        "id": "7",
        "image": IMAGE,
        "conversations": [{"from": "human", "value": "<image>\none?"}, {"from": "gpt", "value": "yes"}],
    },
    "ShareGPT with roles": {"conversations": [USER, ASSISTANT], "image": IMAGE, "system": ""},
    "question and answer": {"question": "one?", "answer": "yes", "image_path": IMAGE},
    "a union of columns": {
        "messages": None,
        "prompt": None,
        "label": None,
        "image": None,
        "query": "one?",
        "response": "yes",
        "images": [IMAGE],
    },
}


def read(tmp_path: Path, row: dict[str, Any]) -> Any:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    return DataFile(tmp_path / "a.jsonl")[0]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_chat(tmp_path: Path, way: str) -> None:
    row = read(tmp_path, WAYS[way])
    assert (row.turns, row.images) == ([Turn("one?", "yes", 1)], [IMAGE])


def test_history_and_system_come_first(tmp_path: Path) -> None:
    asked = {"history": [["<image>first?", "no"]], "system": "Be brief.", "images": [IMAGE]}
    expected = [Turn("Be brief.\nfirst?", "no", 1, "Be brief."), Turn("one?\nmore", "yes")]
    assert read(tmp_path, {"query": "one?\nmore", "response": "yes", **asked}).turns == expected
    assert read(tmp_path, {"instruction": "one?", "input": "more", "output": "yes", **asked}).turns == expected


@pytest.mark.parametrize("field", IMAGE_FIELDS)
@pytest.mark.parametrize("text", ["text", "caption"])
def test_captions_answer_a_question_in_their_language(tmp_path: Path, field: str, text: str) -> None:
    for caption, question in (("一只猫", "描述这张图片。"), ("A cat", "Describe this picture.")):
        row = read(tmp_path, {field: IMAGE, text: caption})
        assert (row.turns, row.images) == ([Turn(question, caption, 1)], [IMAGE])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"promt": "q", "label": "a"}, "fields are promt, label.*nearest is prompt, label .*where prompt is missing"),
        ({"instuction": "q", "output": "a"}, "nearest is instruction, output .*where instruction is missing"),
        ({"file_name": "a.png"}, "nearest is image, .*is missing"),
        ({f"{n}{'x' * 1000}": n for n in range(1000)}, r" …, which is no known format.*ms-swift.*alpaca"),
        ({}, "has no fields"),
        ({"query": "q", "response": "a", "history": ["q"]}, "history is not a list of"),
        ({"query": "q", "response": 3}, "3 is not a text"),
        ({"messages": "text"}, "not a list"),
        ({"messages": ["text"]}, "not a JSON object"),
        ({"query": "<image><image>", "response": "a", "image": IMAGE}, "more <image> than"),
        ({"query": "<image>", "response": "a", "images": [IMAGE, IMAGE]}, "1 entries of images have no"),
        ({"img": 3, "prompt": "q", "label": "a"}, "has no path"),
        ({"query": "<video>q", "response": "a", "videos": ["a.mp4"]}, "has videos, but the model reads only images"),
        ({"video": "a.mp4", "conversations": [USER, ASSISTANT]}, "has video, but"),
    ],
)
def test_a_row_that_no_tool_writes(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(RowError, match=f"row 1: .*{said}") as raised:
        read(tmp_path, row)
    assert len(str(raised.value)) < 1200 and "\n" not in str(raised.value)


def test_a_table_of_other_columns_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("img;Promt;label\n;a;b\n")
    with pytest.raises(UsageError, match=r"its fields are img, promt, label.*where prompt is missing"):
        DataFile(tmp_path / "a.csv")


def test_tables_have_any_format(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(f"file_name\ttext\n{IMAGE}\tA cat\n")
    (tmp_path / "b.csv").write_text("Instruction;Input;Output\none?;;yes\n")
    assert DataFile(tmp_path / "a.tsv")[0].images == [IMAGE]
    assert DataFile(tmp_path / "b.csv")[0].turns == [Turn("one?", "yes")]


@pytest.mark.parametrize("way", WAYS)
def test_captioning_asks_what_the_row_asks(way: str) -> None:
    source, question = image_and_question(WAYS[way])
    assert (source, question) == (IMAGE, "one?")
    assert image_and_question({"file_name": "a.png", "text": "A cat"}) == ("a.png", None)
    assert image_and_question({"image": "", "path": "a.png", "question": ""}) == ("a.png", None)


@pytest.mark.parametrize("row", [{}, {"picture": "a"}, {"images": ["a", "b"]}, {"image": "a", "question": 3}])
def test_captioning_needs_one_image(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"image|question"):
        image_and_question(row)
