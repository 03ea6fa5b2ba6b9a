"""The Ray engine's worker with the packed model, without a cluster: the local engine's rows, in parts."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import visualglm
from visualglm.captioning import ray_engine
from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.local_engine import CaptionPlan, CaptionRun, open_answers
from visualglm.captioning.sources import CaptionItem, read_source

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs visualglm[ray]")
from pyarrow import parquet  # noqa: E402

from visualglm.captioning.parquet_results import ParquetResults  # noqa: E402

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))
PLAN = CaptionPlan("What is in the picture?", batch_size=2)
SAMPLING = {"max_new_tokens": 12, "seed": 5, "do_sample": True, "temperature": 1.1}


@pytest.mark.parametrize("stem", [False, True], ids=["packed", "with a stem"])
def test_both_engines_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem_folder: Path, stem: bool
) -> None:
    load = functools.partial(visualglm.load, stem_folder if stem else None, device="cpu")
    monkeypatch.setattr(ray_engine, "CHUNK", 3)
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in SAMPLES:
        shutil.copy(sample, folder)
    (folder / "broken.png").write_bytes(SAMPLES[0].read_bytes()[:200])
    items = read_source(str(folder))
    items += [CaptionItem(name, folder / name) for name in ("a\0.png", "\ud800.png")]  # as a list may name them
    opener = functools.partial(open_answers, load, PLAN, SAMPLING)
    with ParquetResults(tmp_path / "out") as parts:
        worker = ray_engine.Worker(opener, str(parts.staging))
        told = [worker(chunk) for chunk in ray_engine.chunks(items, parts)]
    assert sum(row["rows"] for row in told) == len(items)
    assert sum(row["failed"] for row in told) == 3
    with JsonlResults(tmp_path / "out.jsonl") as results:
        CaptionRun(load(), results, PLAN, SAMPLING)(items, lambda item: None)
    local = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert parts_of(tmp_path / "out") == sorted(local, key=lambda row: row["image"])


def parts_of(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all parts, without their blanks."""
    rows = [row for part in out.glob("*.parquet") for row in parquet.read_table(part).to_pylist()]
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return sorted(kept, key=lambda row: str(row["image"]))
