"""Results: a torn line goes, whole rows stay, failed rows can be tried again, two runs do not mix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from visualglm.captioning.jsonl_results import JsonlResults, acquire_lock, release_lock
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
        kept = length >= len(whole) - 1  # of a whole row, the end of the line alone may be missing
        with JsonlResults(out) as results:
            assert (set(results.finished), results.failed) == ({"b.png"} | ({"a.png"} if kept else set()), 1)
            if not kept:
                results.write(GOOD)
        assert out.read_bytes() == lines(BAD, GOOD)


def test_a_torn_line_longer_than_a_block(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(lines(GOOD) + b'{"image": "' + b"x" * 200_000)
    with JsonlResults(out):
        pass
    assert out.read_bytes() == lines(GOOD)


def test_failed_rows_leave_when_they_are_to_be_tried_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(lines(BAD, GOOD))
    with JsonlResults(out) as results:
        results.forget_failed()
        assert (set(results.finished), results.failed) == ({"a.png"}, 0)
        results.write({**GOOD, "image": "b.png"})
    assert out.read_bytes() == lines(GOOD, {**GOOD, "image": "b.png"})
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith("jsonl")] == ["out.jsonl"]


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with JsonlResults(tmp_path / "out.jsonl"), pytest.raises(UsageError, match="another run"):
        JsonlResults(tmp_path / "out.jsonl")


def test_a_finished_run_leaves_no_lock(tmp_path: Path) -> None:
    """The file is deleted while it is locked: a run that opened it before sees that it is another one."""
    out = tmp_path / "out.jsonl"
    with JsonlResults(out):
        assert (tmp_path / ".out.jsonl.lock").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    first = acquire_lock(out)
    (tmp_path / ".out.jsonl.lock").unlink()
    second = acquire_lock(out)  # the deleted file's lock holds nobody up
    with pytest.raises(UsageError, match="another run"):
        acquire_lock(out)
    first.close()
    release_lock(out, second)
    assert not (tmp_path / ".out.jsonl.lock").exists()


def test_a_torn_answer_may_end_like_a_row(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(lines(BAD) + b'{"image": "a.png", "question": "?", "text": "a set {1}')
    with JsonlResults(out) as results:
        assert set(results.finished) == {"b.png"}
    assert out.read_bytes() == lines(BAD)


@pytest.mark.parametrize(
    "content",
    [
        b"notes\n",
        b"{}\n",
        b"[1]\n",
        b'{"image": 1, "question": "?", "text": ""}\n',
        b'{"image": "a.png", "question": "a list, not results"}\n',
        b'{"image": "a.png"}',
        b'{"precious": "one line without an end"}',
        b"\xff\xd8\xff\xe0 no end of a line here",
        b"first line\nlast line without an end",
        lines(GOOD) + b"a note behind the rows",
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match="not a row"):
        JsonlResults(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == content
