"""`--engine ray`: the local engine's rows; a second run; a machine that dies midway: nothing is lost, nothing twice."""

from __future__ import annotations

import collections
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs visualglm[ray]: make test-ray")
from pyarrow import parquet

import visualglm
from visualglm.captioning import cluster as engine
from visualglm.captioning.parts import Parts
from visualglm.captioning.results import Results
from visualglm.captioning.run import Plan, Run, open_answers
from visualglm.captioning.sources import read_source
from visualglm.errors import CheckpointError

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))
QUESTION = "What is in the picture?"
PLAN = Plan(QUESTION, batch_size=2)
OPEN = functools.partial(open_answers, functools.partial(visualglm.load, device="cpu"), PLAN, {"max_new_tokens": 12})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(11):
        shutil.copy(SAMPLES[number % len(SAMPLES)], root / f"{number:02}.png")
    (root / "broken.png").write_bytes(SAMPLES[0].read_bytes()[:200])
    return root


@pytest.fixture
def connection(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """This process as a driver, with parts of two pictures."""
    monkeypatch.setattr(engine, "CHUNK", 2)
    with engine.connected(cluster.address):
        yield cluster


def rows(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows without their blanks; none may be there twice."""
    found = [row for part in out.glob("*.parquet") for row in parquet.read_table(part).to_pylist()]
    keyed = {
        (row["image"], row["question"]): {name: value for name, value in row.items() if value is not None}
        for row in found
    }
    assert len(keyed) == len(found), "no row is written twice"
    return keyed


def local(folder: Path, out: Path, **sampling: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """What the local engine says."""
    with Results(out) as results:
        Run(visualglm.load(device="cpu"), results, PLAN, sampling)(read_source(str(folder)), lambda item: None)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {(line["image"], line["question"]): line for line in lines}


def test_both_engines_give_the_same_rows(cluster: Any, folder: Path, tmp_path: Path) -> None:
    flags = ["--question", QUESTION, "--max-new-tokens", "12", "--seed", "5", "--temperature", "1.1", "--device", "cpu"]
    command = [sys.executable, "-m", "visualglm", "caption", str(folder), "-o", str(tmp_path / "out"), *flags]
    command += ["--engine", "ray", "--ray-address", cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1, done.stderr[-3000:]
    assert f"12 of 12 pictures answered now; 1 rows of {tmp_path / 'out'} hold an error." in done.stderr
    wanted = local(folder, tmp_path / "out.jsonl", max_new_tokens=12, seed=5, temperature=1.1)
    assert rows(tmp_path / "out") == wanted


def test_what_is_left_is_answered_and_nothing_else(connection: Any, folder: Path, tmp_path: Path) -> None:
    items = read_source(str(folder))
    assert engine.pool_of(None, "cpu") == engine.Pool(2, 1, 0)
    for first, last in ((0, 3), (0, len(items)), (0, len(items))):
        with Parts(tmp_path / "out") as parts:
            waiting = parts.waiting(items[first:last])
            counts = list(engine.answer(waiting, parts, OPEN, engine.pool_of(None, "cpu")))
        assert sum(counts) == len(waiting)
    assert len(rows(tmp_path / "out")) == len(items)


def refuse() -> engine.Answers:
    raise CheckpointError("there is no such model here: give another --model.")


def test_a_mistake_that_an_actor_meets_is_said_in_its_own_words(connection: Any, folder: Path, tmp_path: Path) -> None:
    with Parts(tmp_path / "out") as parts, pytest.raises(CheckpointError, match="give another --model"):
        list(engine.answer(read_source(str(folder))[:1], parts, refuse, engine.Pool(1, 1, 0)))


def doomed_answers(open_real: Callable[[], engine.Answers], doomed: str, sign: Path) -> engine.Answers:
    """On the doomed machine the second chunk never ends; elsewhere nobody begins before that."""
    import ray

    answers, calls = open_real(), itertools.count()

    def answer(items: Any) -> Any:
        if ray.get_runtime_context().get_node_id() == doomed:
            if next(calls):
                sign.touch()
                threading.Event().wait()
        else:
            wait_for(sign)
        return answers(items)

    return answer


def wait_for(sign: Path) -> None:
    while not sign.exists():
        time.sleep(0.05)


def test_a_machine_dies_midway(connection: Any, folder: Path, tmp_path: Path) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    sign, second = tmp_path / "sign", connection.second
    opener = functools.partial(doomed_answers, OPEN, second.node_id, sign)

    def kill() -> None:
        wait_for(sign)
        connection.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    items = read_source(str(folder))
    with Parts(tmp_path / "out") as parts:
        counts = list(engine.answer(items, parts, opener, engine.Pool(2, 1, 0)))
    killer.join()
    assert sum(counts) == len(items)
    assert collections.Counter(image for image, _ in rows(tmp_path / "out")) == {item.image: 1 for item in items}
    assert rows(tmp_path / "out") == local(folder, tmp_path / "out.jsonl", max_new_tokens=12)
