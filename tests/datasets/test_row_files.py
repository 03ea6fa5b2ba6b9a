"""Files of rows: lists, lines and tables, in the ways that other programs write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from visualglm.datasets.data_files import DataFile
from visualglm.datasets.row_files import RowError, RowFile
from visualglm.errors import UsageError

ROWS = [{"prompt": "图里有什么？", "label": 'a "cat" ]}{['}, {"prompt": "q, r; s", "label": "b"}]
KNOWN = ("img", "prompt", "label")


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("wrapper", [None, "data", "rows", "samples", "items"])
def test_lists_and_wrapped_lists_have_any_suffix(
    tmp_path: Path, suffix: str, indent: int | None, wrapper: str | None
) -> None:
    content = ROWS if wrapper is None else {"version": "1", "names": ["x", {"data": []}], wrapper: ROWS, "end": {}}
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / f"a{suffix}").write_text(json.dumps(content, indent=indent), encoding=encoding)
        assert list(RowFile(tmp_path / f"a{suffix}")) == ROWS


def test_lines_whose_objects_hold_lists(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user"}], "x": {"data": [1]}}, {"a": [1, 2]}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n \n")
    assert list(RowFile(tmp_path / "a.jsonl")) == rows


@pytest.mark.parametrize(
    "content", ['{"prompt": "q"}', '{"other": [{}]}', '{"a": 1', "words", '{"prompt": "q"} x', '{"a": 1} [']
)
def test_an_object_without_a_list_of_rows_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UsageError, match=r'is not a JSON list. .*"data"'):
        RowFile(tmp_path / "a.json")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("head", ["img,prompt,label", " IMG ,Prompt,LABEL", '"Img","prompt ","label"'])
@pytest.mark.parametrize("first", ["", "\ufeff", "\ufeffsep={}\r\n"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, suffix: str, delimiter: str, head: str, first: str) -> None:
    cells = ['""', '"a, b; c\td\n""e"""', "x\u2028y"]
    lines = [head.replace(",", delimiter), delimiter.join(cells), "", delimiter.join(cells)]
    (tmp_path / f"a{suffix}").write_bytes((first.format(delimiter) + "\r\n".join(lines)).encode())
    assert (
        list(RowFile(tmp_path / f"a{suffix}", KNOWN))
        == [{"img": "", "prompt": 'a, b; c\td\n"e"', "label": "x\u2028y"}] * 2
    )


def test_blanks_inside_column_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("File Name,TEXT\na.png,b\n")
    assert list(RowFile(tmp_path / "a.csv")) == [{"file_name": "a.png", "text": "b"}]


def test_a_line_of_names_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("img,prompt,label" + "x" * 3_000_000)
    with pytest.raises(UsageError):
        list(DataFile(tmp_path / "a.csv"))


def test_a_row_that_is_too_long_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visualglm.datasets.row_files.MOST_BYTES", 1000)
    monkeypatch.setattr("visualglm.datasets.row_files.LINE_PIECE", 64)
    lines = [json.dumps({"a": "x" * length}) for length in (10, 2000, 63 - len('{"a": ""}'), 10)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    read = RowFile(tmp_path / "a.jsonl")
    assert [len(read), len(read[0]["a"]), len(read[2]["a"]), len(read[3]["a"])] == [4, 10, 54, 10]
    with pytest.raises(RowError, match=r"row 2: it has more than .*one row per line"):
        read[1]
