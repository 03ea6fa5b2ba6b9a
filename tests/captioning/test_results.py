"""Results: a torn line goes, whole rows stay, failed rows can be tried again, two runs do not mix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from visualglm.captioning.results import Results
from visualglm.errors import UsageError

GOOD = {"image": "a.png", "question": "?", "text": "甲"}
BAD = {"image": "b.png", "question": "?", "error": "broken"}


def lines(*rows: dict[str, str]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def test_a_torn_line_is_cut_wherever_it_was_torn(tmp_path: Path) -> None:
    whole = lines(GOOD)
    for length in range(len(whole) + 1):
        out = tmp_path / f"{length}.jsonl"
        out.write_bytes(lines(BAD) + whole[:length])
        with Results(out) as results:
            assert (set(results.finished), results.failed) == (
                {"b.png"} | ({"a.png"} if length == len(whole) else set()),
                1,
            )
            if length < len(whole):
                results.write(GOOD)
        assert out.read_bytes() == lines(BAD, GOOD)


def test_a_torn_line_longer_than_a_block(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(lines(GOOD) + b"x" * 200_000)
    with Results(out):
        pass
    assert out.read_bytes() == lines(GOOD)


def test_failed_rows_leave_when_they_are_to_be_tried_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(lines(BAD, GOOD))
    with Results(out, retry_failed=True) as results:
        assert (set(results.finished), results.failed) == ({"a.png"}, 0)
        results.write({**GOOD, "image": "b.png"})
    assert out.read_bytes() == lines(GOOD, {**GOOD, "image": "b.png"})
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith("jsonl")] == ["out.jsonl"]


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with Results(tmp_path / "out.jsonl"), pytest.raises(UsageError, match="another run"):
        Results(tmp_path / "out.jsonl")


@pytest.mark.parametrize("content", [b"notes\n", b"{}\n", b"[1]\n", b'{"image": 1, "question": "?"}\n'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match="no row"):
        Results(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == content
