"""The cluster's side of captioning, with a stand-in for the model: resuming, mistakes, a machine that dies midway."""

from __future__ import annotations

import functools
import hashlib
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs visualglm[ray]: make test-ray")
from pyarrow import parquet

from visualglm.captioning import ray_engine as engine
from visualglm.captioning.parquet_results import ParquetResults
from visualglm.captioning.sources import read_source
from visualglm.errors import CheckpointError, UsageError

TWO = engine.Pool(2, 1, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for number in range(15):
        (root / f"{number:02}.png").write_bytes(b"picture %d" % number)
    (root / "broken.png").write_bytes(b"")
    return root


@pytest.fixture
def connection(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make this process a driver, with parts of two images; the machines get this file's functions by value."""
    from ray import cloudpickle

    monkeypatch.setattr(engine, "CHUNK", 2)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with engine.connected(cluster.address):
        yield cluster


def answers(items: Any) -> list[dict[str, Any]]:
    """Read each image and says its hash; an empty one is an error."""
    found = [(item.image, item.read()) for item in items]
    return [
        {"image": image, "question": "?", **({"text": digest(content)} if content else {"error": "empty"})}
        for image, content in found
    ]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check(out: Path, folder: Path) -> None:
    """Every image has its row, once."""
    rows = [row for part in out.glob("*.parquet") for row in parquet.read_table(part).to_pylist()]
    wanted = {file.name: digest(file.read_bytes()) if file.stat().st_size else None for file in folder.iterdir()}
    assert sorted(row["image"] for row in rows) == sorted(wanted)
    assert {row["image"]: row["text"] for row in rows} == wanted
    assert [row["image"] for row in rows if row["error"] is not None] == ["broken.png"]


def open_answers() -> engine.Answers:
    return answers


def test_what_is_left_is_answered_and_nothing_else(connection: Any, folder: Path, tmp_path: Path) -> None:
    assert engine.pool_of(None, "cpu") == TWO
    items = read_source(str(folder))
    for first, last in ((0, 5), (3, len(items)), (0, len(items))):
        with ParquetResults(tmp_path / "out") as parts:
            waiting = parts.waiting(items[first:last], "?")
            assert sum(engine.answer(waiting, parts, open_answers, TWO)) == len(waiting)
    assert not waiting
    assert parts.failed == 1
    check(tmp_path / "out", folder)


def refuse() -> engine.Answers:
    raise CheckpointError("There is no such model here. Give another --model.")


def test_a_mistake_that_an_actor_meets_is_said_in_its_own_words(connection: Any, folder: Path, tmp_path: Path) -> None:
    with ParquetResults(tmp_path / "out") as parts, pytest.raises(UsageError, match="Give another --model"):
        list(engine.answer(read_source(str(folder))[:1], parts, refuse, engine.Pool(1, 1, 0)))


def open_doomed(doomed: str, sign: Path) -> engine.Answers:
    """On the doomed machine the second chunk never ends; elsewhere nobody begins before that."""
    import ray

    calls = itertools.count()

    def answer(items: Any) -> list[dict[str, Any]]:
        if ray.get_runtime_context().get_node_id() != doomed:
            wait_for(sign)
        elif next(calls):
            sign.touch()
            threading.Event().wait()
        return answers(items)

    return answer


def wait_for(sign: Path) -> None:
    while not sign.exists():
        time.sleep(0.05)


def test_a_machine_dies_midway(connection: Any, folder: Path, tmp_path: Path) -> None:
    sign, second = tmp_path / "sign", connection.second

    def kill() -> None:
        wait_for(sign)
        connection.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    items = read_source(str(folder))
    with ParquetResults(tmp_path / "out") as parts:
        counts = list(engine.answer(items, parts, functools.partial(open_doomed, second.node_id, sign), TWO))
    killer.join()
    assert sum(counts) == len(items)
    check(tmp_path / "out", folder)
