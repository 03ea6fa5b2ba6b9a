"""Data files: kinds that agree, broken rows named by number, encodings named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from visualglm.datasets.data_files import DataFile
from visualglm.datasets.row_files import RowError
from visualglm.errors import UsageError
from visualglm.preprocessing.prompt import Turn

from ..finetuning.conftest import IMAGES, rows, written


def test_upstreams_list_whatever_stands_between_its_rows(tmp_path: Path) -> None:
    tricky = [{**row, "label": 'a "quoted" ]}{[ \\ label'} for row in rows(3)]
    for indent in (None, 2):
        file = tmp_path / f"{indent}.json"
        file.write_text(json.dumps(tricky, indent=indent), encoding="utf-8")
        read = DataFile(file)
        assert [read[n].turns for n in range(3)] == [[Turn(r["prompt"], r["label"], 1)] for r in tricky]
        assert read[0].images == [IMAGES[0]]


def test_the_kinds_agree(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows()) + "\n")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["label", "img", "prompt"])
        table.writeheader()
        table.writerows(rows())
    listed = DataFile(written(tmp_path))
    for name in ("a.jsonl", "a.csv"):
        other = DataFile(tmp_path / name)
        assert list(other) == list(listed)


def test_messages_in_the_ways_that_tools_write_them(tmp_path: Path) -> None:
    """Parts, `<image>` with a list, and LLaVA's conversations: the same turns and images."""
    text = {"role": "assistant", "content": "yes"}
    parts = [{"type": "image", "image": IMAGES[0]}, {"type": "text", "text": "one?"}]
    ways = [
        {"messages": [{"role": "user", "content": parts}, text, {"role": "user", "content": "two?"}, text]},
        {
            "messages": [{"role": "user", "content": "<image>one?"}, text, {"role": "user", "content": "two?"}, text],
            "images": [IMAGES[0]],
        },
        {
            "conversations": [
                {"from": "human", "value": "<image>\none?"},
                {"from": "gpt", "value": "yes"},
                {"from": "human", "value": "two?"},
                {"from": "gpt", "value": "yes"},
            ],
            "image": IMAGES[0],
        },
    ]
    file = tmp_path / "chat.jsonl"
    file.write_text("\n".join(json.dumps(way) for way in ways))
    read = DataFile(file)
    for row in read:
        assert row.turns == [Turn("one?", "yes", 1), Turn("two?", "yes")]
        assert row.images == [IMAGES[0]]


@pytest.mark.parametrize(
    "row, fault",
    [
        ({"img": "nowhere.png", "prompt": "q", "label": "a"}, "neither beside the data file"),
        ({"img": "", "prompt": "q"}, "label"),
        ({"prompt": 3, "label": "a"}, "is not a text"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no answer"),
        ({"messages": [{"role": "robot", "content": "q"}]}, "robot"),
        ({"messages": []}, "messages is empty"),
        ({"messages": None}, "messages is missing"),
        ({"conversations": [{"from": "bot", "value": "q"}]}, "the sender 'bot' is unknown"),
        (
            {"img": "iVBORw0KGgo" * 1000, "prompt": "q", "label": "a"},
            r"\(11000 characters\) is not a path; .*data:image",
        ),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: dict[str, Any], fault: str) -> None:
    read = DataFile(written(tmp_path, [rows(1)[0], row]))
    with pytest.raises(RowError, match=rf"row 2: .*{fault}"):
        read[1]


@pytest.mark.parametrize("item", ["text", 3, -1.5e3, True, None, [], ["a"]])
def test_what_is_no_object_is_an_error_with_its_number(tmp_path: Path, item: Any) -> None:
    row = rows(1)[0]
    read = DataFile(written(tmp_path, [row, item, row]))
    assert len(read) == 3 and read[0] == read[2]
    with pytest.raises(RowError, match=r"row 2: it is not a JSON object"):
        read[1]


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("img,prompt\n")
    (tmp_path / "a.json").write_text('[{"img": "x"')
    (tmp_path / "b.json").write_text("[]")
    for name, fault in [
        ("a.txt", "no data file"),
        ("a.csv", "label"),
        ("a.json", "not a complete"),
        ("b.json", "no rows"),
    ]:
        with pytest.raises(UsageError, match=fault):
            DataFile(tmp_path / name)


@pytest.mark.parametrize(
    "encoding, name",
    [
        ("gbk", "GBK"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
    ],
)
def test_what_spreadsheets_write_is_named(tmp_path: Path, encoding: str, name: str) -> None:
    texts = {
        "a.csv": "img,prompt,label\n,图里有什么,一只猫\n",
        "a.json": '[{"prompt": "图里有什么", "label": "一只猫"}]',
    }
    for file, text in texts.items():
        (tmp_path / file).write_bytes(text.encode(encoding))
        with pytest.raises(UsageError, match=f"probably {name}\\. .*iconv"):
            DataFile(tmp_path / file)
        (tmp_path / file).write_bytes(text.encode("utf-8-sig"))
        assert len(list(DataFile(tmp_path / file))) == 1


def test_one_byte_that_is_no_utf8_is_its_rows_fault(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("img,prompt,label,été\n,图,猫,\n,图,".encode() + b"\xe9,\n")
    read = DataFile(tmp_path / "a.csv")
    assert read[0].turns == [Turn("图", "猫")]
    with pytest.raises(RowError, match=r"row 2: its byte 6 is not UTF-8"):
        read[1]


@pytest.mark.parametrize("rest, where", [(3, "row 2: a quote"), (20000, "row 2: a field does not end")])
def test_a_quote_that_is_not_closed(tmp_path: Path, rest: int, where: str) -> None:
    (tmp_path / "a.csv").write_text('img,prompt,label\n,a,b\n,"what,b\n' + ",what,b\n" * rest)
    with pytest.raises(UsageError, match=where):
        list(DataFile(tmp_path / "a.csv"))


def test_a_row_of_other_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("img,prompt,label\n,a,b,c\n")
    with pytest.raises(RowError, match="row 1: it has 4 fields, and the first line names 3"):
        list(DataFile(tmp_path / "a.csv"))
