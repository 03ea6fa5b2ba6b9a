"""Parts: a folder of Parquet that keeps whole parts, forgets failed rows on demand, and shuts older runs out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from visualglm.errors import CheckpointError, UsageError

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs visualglm[ray]")

from visualglm.captioning import ray_engine  # noqa: E402
from visualglm.captioning.parquet_results import ParquetResults, write_part  # noqa: E402
from visualglm.captioning.sources import CaptionItem  # noqa: E402

GOOD = {"image": "a.png", "question": "?", "text": "甲", "finish_reason": "stop", "completion_tokens": 2}
BAD = {"image": "b.png", "question": "?", "error": "broken"}


def rows(out: Path) -> list[dict[str, object]]:
    return [row for part in sorted(out.glob("*.parquet")) for row in pyarrow.parquet.read_table(part).to_pylist()]


def test_what_is_written_is_found_again(tmp_path: Path) -> None:
    with ParquetResults(tmp_path / "out") as parts:
        write_part(parts.staging, parts.name(0), [GOOD, BAD])
        assert parts.finished == {}, "it is what lay there at the start"
    assert [path.name for path in parts.path.iterdir()] == [parts.name(0)]
    with ParquetResults(tmp_path / "out") as again:
        assert (again.finished, again.failed) == ({"a.png": {"?"}, "b.png": {"?"}}, 1)
        assert again.waiting([CaptionItem("a.png", Path()), CaptionItem("c.png", Path())], "?") == [
            CaptionItem("c.png", Path())
        ]
    blank = dict.fromkeys(("text", "finish_reason", "completion_tokens", "error"))
    assert rows(tmp_path / "out") == [{**blank, **GOOD}, {**blank, **BAD}]


def test_a_part_that_is_written_twice_replaces_itself(tmp_path: Path) -> None:
    with ParquetResults(tmp_path / "out") as parts:
        for _ in range(2):
            write_part(parts.staging, parts.name(0), [GOOD])
    assert len(rows(tmp_path / "out")) == 1


def test_a_machine_that_still_works_for_an_older_run_writes_nothing(tmp_path: Path) -> None:
    old = ParquetResults(tmp_path / "out")
    draft = old.staging / "half.parquet"
    draft.write_bytes(b"PAR1 torn")
    old._lock.close()  # as if its process had been killed
    with ParquetResults(tmp_path / "out") as new:
        with pytest.raises(UsageError, match="does not exist on"):
            write_part(old.staging, old.name(0), [GOOD])
        with pytest.raises(FileNotFoundError):
            draft.rename(new.path / old.name(0))
        assert {path.name for path in new.path.iterdir()} == {new.staging.name}


def test_failed_rows_leave_when_they_are_to_be_tried_again(tmp_path: Path) -> None:
    with ParquetResults(tmp_path / "out") as parts:
        write_part(parts.staging, parts.name(0), [GOOD, BAD])
        write_part(parts.staging, parts.name(1), [{**BAD, "image": "c.png"}])
    with ParquetResults(tmp_path / "out") as again:
        again.forget_failed()
        assert (again.finished, again.failed) == ({"a.png": {"?"}}, 0)
    assert [row["image"] for row in rows(tmp_path / "out")] == ["a.png"]


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    with ParquetResults(tmp_path / "out"), pytest.raises(UsageError, match="another run"):
        ParquetResults(tmp_path / "out")


def test_names_that_are_no_utf_8_are_known_again(tmp_path: Path) -> None:
    odd = CaptionItem("a\udcff.png", tmp_path)
    with ParquetResults(tmp_path / "out") as parts:
        write_part(parts.staging, parts.name(0), [{**GOOD, "image": odd.image}])
    with ParquetResults(tmp_path / "out") as again:
        assert again.waiting([odd], "?") == []


def test_what_is_no_folder_of_parts_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("{}\n")
    for place, named in [(tmp_path, "holds out.jsonl"), (tmp_path / "out.jsonl", "cannot be written")]:
        with pytest.raises(UsageError, match=named):
            ParquetResults(place)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "part-0123456789ab-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="cannot be read"):
        ParquetResults(tmp_path / "torn")


def test_a_worker_turns_chunks_into_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an actor does, without a cluster; names that are no UTF-8 travel too."""
    monkeypatch.setattr(ray_engine, "CHUNK", 2)
    items = [
        CaptionItem("a\udcff.png", Path("a")),
        CaptionItem("b.png", Path("b"), "甲？", 3, 4),
        CaptionItem("c.png", Path("c"), group=1),
    ]
    seen: list[CaptionItem] = []

    def answers(chunk: Sequence[CaptionItem]) -> list[dict[str, str]]:
        seen.extend(chunk)
        return [{"image": item.image, "question": "?", "error": "broken"} for item in chunk]

    with ParquetResults(tmp_path / "out") as parts:
        worker = ray_engine.Worker(lambda: answers, str(parts.staging))
        told = [worker(chunk) for chunk in ray_engine.chunks(items, parts)]
    assert told == [{"rows": 2, "failed": 2, "mistake": ""}, {"rows": 1, "failed": 1, "mistake": ""}]
    assert seen == [dataclasses.replace(item, file=item.file.absolute()) for item in items]
    assert sorted(row["image"] for row in rows(tmp_path / "out")) == ["a?.png", "b.png", "c.png"]


def test_a_mistake_on_another_machine_is_told_in_its_own_words(tmp_path: Path) -> None:
    def refuse() -> ray_engine.Answers:
        raise CheckpointError("there is no such model here.")

    chunk = {"part": "part-0123456789ab-000000.parquet", "items": "[]"}
    assert ray_engine.Worker(refuse, "unseen")(chunk)["mistake"] == "there is no such model here."
    assert "all machines share" in ray_engine.Worker(lambda: lambda items: [GOOD], "unseen")(chunk)["mistake"]
