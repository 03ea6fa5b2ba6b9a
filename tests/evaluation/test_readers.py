"""Readers: small files of exactly the published shapes, and one sentence with the row's number for what is wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from visualglm import packed_model
from visualglm.datasets.row_files import RowError
from visualglm.errors import UsageError
from visualglm.evaluation.examples import Examples
from visualglm.evaluation.readers.captions import read_captions
from visualglm.evaluation.readers.choices import read_choices
from visualglm.evaluation.readers.questions import read_questions
from visualglm.evaluation.readers.source import DataSource
from visualglm.evaluation.readers.yes_no_questions import read_yes_no_questions
from visualglm.evaluation.task_list import make_task

SAMPLE = sorted((packed_model() / "samples").glob("*.png"))[0].read_bytes()
MMBENCH = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit"


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")
    return path


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(SAMPLE)
    return path


def test_coco_captions(tmp_path: Path) -> None:
    image(tmp_path / "val" / "COCO_val2014_000000000042.jpg")
    data = {
        "info": {"year": 2014, "images": "x"},
        "images": [
            {"license": 5, "file_name": "COCO_val2014_000000000042.jpg", "height": 4, "width": 6, "id": 42},
            {"license": 5, "file_name": "COCO_val2014_000000000073.jpg", "height": 4, "width": 6, "id": 73},
        ],
        "licenses": [{"id": 1, "name": "x"}],
        "annotations": [
            {"image_id": 42, "id": 641613, "caption": "A red cup."},
            {"image_id": 42, "id": 641614, "caption": "A cup on a table."},
        ],
    }
    found = read_captions(DataSource(write(tmp_path / "captions_val2014.json", data), tmp_path / "val"))
    (row,) = found.rows
    assert (row.references, row.question) == (("A red cup.", "A cup on a table."), "Describe this picture.")
    assert row.image() == SAMPLE
    assert found.notes == ["1 images without a caption are left out"]


@pytest.mark.parametrize(
    "lines, captions",
    [
        ("a.jpg#zhc#0 一只黑狗在跑\na.jpg#zhc#1 狗在草地上\n", ("一只黑狗在跑", "狗在草地上")),
        ("a.jpg#zhmt#0 一只:m 黑:a 狗:n 在:p 跑:v\n", ("一只黑狗在跑",)),
        ("a.jpg#0\tA black dog runs .\n", ("A black dog runs .",)),
    ],
)
def test_flickr_captions(tmp_path: Path, lines: str, captions: tuple[str, ...]) -> None:
    (row,) = read_captions(DataSource(write(tmp_path / "flickr8kzhc.caption.txt", lines))).rows
    assert row.references == captions
    assert row.question == ("描述这张图片。" if "狗" in lines else "Describe this picture.")


def test_vqa_v2(tmp_path: Path) -> None:
    image(tmp_path / "val2014" / "COCO_val2014_000000262148.jpg")
    questions = {
        "info": {},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "license": {},
        "data_subtype": "val2014",
        "questions": [{"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000}],
    }
    annotation = {
        "question_type": "none of the above",
        "multiple_choice_answer": "down",
        "answers": [{"answer": "down", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)],
        "image_id": 262148,
        "answer_type": "other",
        "question_id": 262148000,
    }
    data = write(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", questions)
    answers = write(tmp_path / "v2_mscoco_val2014_annotations.json", {"info": {}, "annotations": [annotation]})
    (row,) = read_questions(DataSource(data, tmp_path / "val2014", answers)).rows
    assert (row.id, row.question, row.references) == ("262148000", "Where is he looking?", ("down",) * 10)
    assert row.image() == SAMPLE
    with pytest.raises(UsageError, match="--answers"):
        read_questions(DataSource(data))
    annotation["question_id"] = 7
    with pytest.raises(RowError, match=r"row 1: .*has no answer to question_id 262148000"):
        read_questions(DataSource(data, None, write(answers, {"annotations": [annotation]})))


def test_gqa(tmp_path: Path) -> None:
    row = {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "wall"}],
        "entailed": [],
        "question": "Is the wall white?",
        "imageId": "2354786",
        "isBalanced": True,
        "groups": {"global": None, "local": "10q-wall_white"},
        "answer": "yes",
        "types": {"detailed": "verify", "semantic": "attr", "structural": "verify"},
        "fullAnswer": "Yes, the wall is white.",
    }
    data = write(tmp_path / "testdev_balanced_questions.json", {"201307251": row})
    (found,) = read_questions(DataSource(data)).rows
    assert (found.id, found.references, found.facets, found.image_key) == (
        "201307251",
        ("yes",),
        {"type": "verify"},
        "2354786.jpg",
    )
    with pytest.raises(RowError, match=r"row 2 \(5\): 'imageId' is missing"):
        read_questions(DataSource(write(data, {"4": row, "5": {"question": "x"}})))


def test_pope_whose_json_has_lines(tmp_path: Path) -> None:
    line = {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?"}
    lines = [{**line, "label": "yes"}, {**line, "question_id": 2, "label": "no"}]
    for split in ("random", "popular", "adversarial"):
        write(tmp_path / "coco" / f"coco_pope_{split}.json", "\n".join(map(json.dumps, lines)) + "\n")
    one = read_yes_no_questions(DataSource(tmp_path / "coco" / "coco_pope_random.json")).rows
    assert [(row.id, row.references, row.facets) for row in one] == [
        ("1", ("yes",), {"split": "random"}),
        ("2", ("no",), {"split": "random"}),
    ]
    every = read_yes_no_questions(DataSource(tmp_path / "coco")).rows
    assert len({row.id for row in every}) == 6 and [row.row for row in every] == list(range(6))


@pytest.mark.parametrize("deep", [False, True])
def test_mme_folders(tmp_path: Path, deep: bool) -> None:
    folder = tmp_path / "MME" / "existence"
    lines = (
        "Is there a cup in this image? Please answer yes or no.\tYes\nIs there a cat? Please answer yes or no.\tNo\n"
    )
    write((folder / "questions_answers_YN" if deep else folder) / "000000006040.txt", lines)
    image((folder / "images" if deep else folder) / "000000006040.jpg")
    first, second = read_yes_no_questions(DataSource(tmp_path / "MME")).rows
    assert first.image() == SAMPLE and first.facets == {"category": "existence"}
    assert (first.references, second.references, first.image_key) == (("yes",), ("no",), second.image_key)
    assert first.question == "Is there a cup in this image? Please answer yes or no."


def test_mmbench_with_a_shared_image(tmp_path: Path) -> None:
    picture = base64.b64encode(SAMPLE + bytes(200_000)).decode()  # longer than the csv module's own limit
    lines = [
        MMBENCH,
        f"241\tWhat is it?\tLook.\ta cup\ta dog\t\t\tA\tobject\t{picture}\tx\tcoarse\t\tdev",
        "1000241\tIs it red?\tnan\tyes\tno\tmaybe\t\tB\tattribute\t241\tx\tfine\t\tdev",
    ]
    data = write(tmp_path / "mmbench_dev_en.tsv", "\n".join(lines) + "\n")
    first, second = read_choices(DataSource(data)).rows
    assert (first.question, first.options, first.references) == ("Look.\nWhat is it?", ("a cup", "a dog"), ("A",))
    assert (second.question, second.options, second.references) == ("Is it red?", ("yes", "no", "maybe"), ("B",))
    assert first.facets == {"category": "object", "l2_category": "coarse"}
    assert second.image()[: len(SAMPLE)] == SAMPLE and first.image_key == second.image_key


def test_cmmmu_rows(tmp_path: Path) -> None:
    row = {
        "id": 8,
        "type": "选择",
        "question": '<img="1.png"> 图中是什么？',
        "option1": "杯子",
        "option2": "狗",
        "option3": "",
        "option4": None,
        "image_1": "1.png",
        "answer": "B",
        "category": "艺术与设计",
    }
    rows = [
        row,
        {**row, "id": 9, "type": "判断"},
        {**row, "id": 10, "image_2": "2.png"},
        {**row, "id": 11, "answer": "AB"},
    ]
    found = read_choices(DataSource(write(tmp_path / "val.jsonl", "\n".join(map(json.dumps, rows)))))
    (kept,) = found.rows
    assert (kept.question, kept.options, kept.references) == ("图中是什么？", ("杯子", "狗"), ("B",))
    assert len(found.notes) == 3 and all(note.startswith("1 rows are left out") for note in found.notes)


@pytest.mark.parametrize("answer", ["b", 1, "狗"])
def test_plain_choices(tmp_path: Path, answer: object) -> None:
    row = {"image": "a.png", "question": "什么？", "options": ["猫", "狗"], "answer": answer}
    (found,) = read_choices(DataSource(write(tmp_path / "a.jsonl", [row]))).rows
    assert found.references == ("B",)


CAPTION = {"image": "a.png", "caption": "a cup"}
QUESTION = {"image": "a.png", "question": "what?", "answer": "a cup"}
CHOICE = {"image": "a.png", "question": "what?", "options": ["a", "b"], "answer": "A"}


@pytest.mark.parametrize(
    "read, row, message",
    [
        (read_captions, {"image": "a.png"}, "'captions or caption .*' is missing; its fields are image"),
        (read_captions, {**CAPTION, "caption": ["a", " "]}, "caption is ' ', which is not a text"),
        (read_captions, {**CAPTION, "caption": []}, "caption is an empty list"),
        (read_captions, {**CAPTION, "image": "http://a/b.png"}, ".*is a URL, and images are not fetched"),
        (read_questions, {**QUESTION, "answer": None}, "'answers or answer' is missing"),
        (read_questions, {**QUESTION, "image": ["a.png", "b.png"]}, "it has 2 images, and one is needed"),
        (read_questions, {**QUESTION, "question": {}}, "question is '{}', which is not a text"),
        (read_yes_no_questions, {**QUESTION, "answer": "perhaps"}, "its answer 'perhaps' is neither yes nor no"),
        (read_choices, {**CHOICE, "answer": "E"}, "its answer 'E' is not among its 2 options"),
        (read_choices, {**CHOICE, "answer": ""}, "its answer is missing"),
        (read_choices, {**CHOICE, "options": ["a"]}, "it has 1 options"),
        (read_choices, 7, "it is not a JSON object"),
    ],
)
def test_a_wrong_row_is_one_sentence_with_its_number(
    tmp_path: Path, read: Callable[[DataSource], Examples], row: Any, message: str
) -> None:
    good = {read_captions: CAPTION, read_choices: CHOICE}.get(read, {**QUESTION, "answer": "yes"})
    data = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, [good, row])))
    with pytest.raises(RowError, match=rf"a\.jsonl, row 2: {message}") as caught:
        read(DataSource(data))
    assert "\n" not in str(caught.value)


def test_foreign_encodings_and_shapes(tmp_path: Path) -> None:
    (tmp_path / "gbk.txt").write_bytes("a.jpg#zhc#0 一只黑狗在草地上奔跑\n".encode("gbk"))
    with pytest.raises(UsageError, match="probably GBK"):
        read_captions(DataSource(tmp_path / "gbk.txt"))
    with pytest.raises(RowError, match=r"row 2: it is not IMAGE#NUMBER CAPTION"):
        read_captions(DataSource(write(tmp_path / "a.txt", "a.jpg#0 x\nb.jpg a dog\n")))
    with pytest.raises(UsageError, match="neither POPE's files"):
        read_yes_no_questions(DataSource(tmp_path))
    with pytest.raises(RowError, match=r"row 1: it is not QUESTION<tab>Yes or No"):
        read_yes_no_questions(DataSource(write(tmp_path / "existence" / "1.txt", "Is it?\tMaybe\n").parents[1]))


def test_ids_are_unique_and_some_image_exists(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", "\n".join(json.dumps({**QUESTION, "id": 3}) for _ in range(2)))
    with pytest.raises(RowError, match=r"row 1: its id '3' is used 2 times"):
        make_task("vqa", DataSource(data), None)
    write(data, json.dumps(QUESTION))
    with pytest.raises(UsageError, match=r"none of its 1 images exists.*--images"):
        make_task("vqa", DataSource(data), None)
    image(tmp_path / "a.png")
    assert len(make_task("vqa", DataSource(data), 5)[1].rows) == 1


def test_a_limit_keeps_rows_evenly(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    rows = "\n".join(json.dumps({**QUESTION, "id": number}) for number in range(10))
    _, examples = make_task("vqa", DataSource(write(tmp_path / "a.jsonl", rows)), 5)
    assert [row.id for row in examples.rows] == ["0", "2", "4", "6", "8"]
    assert examples.notes == ["5 of 10 rows, evenly spaced"]
