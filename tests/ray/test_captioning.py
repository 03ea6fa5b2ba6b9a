"""`visualglm caption --engine ray` on two nodes: the rows of the local engine, seeds and broken images included."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs visualglm[ray]: make test-ray")
from pyarrow import parquet

import visualglm
from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.local_engine import CaptionPlan, CaptionRun
from visualglm.captioning.sources import read_source

from .conftest import ROOT

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))
PICTURES = [*SAMPLES, *(visualglm.packed_model() / "samples").glob("*.jpg")]
QUESTION = "What is in the picture?"
Rows = dict[tuple[str, str], dict[str, Any]]


def run(arguments: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "visualglm", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(program, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


def keyed(rows: list[dict[str, Any]]) -> Rows:
    """Return the rows without their blanks; none may be there twice."""
    found = {(row["image"], row["question"]): {k: v for k, v in row.items() if v is not None} for row in rows}
    assert len(found) == len(rows)
    return found


def parts(out: Path) -> Rows:
    return keyed([row for part in out.glob("*.parquet") for row in parquet.read_table(part).to_pylist()])


def local(folder: Path, out: Path, **sampling: Any) -> Rows:
    """Return what the local engine says."""
    with JsonlResults(out) as results:
        plan = CaptionPlan(QUESTION, batch_size=8, model="visualglm-mini")
        CaptionRun(visualglm.load(device="cpu"), results, plan, sampling)(read_source(str(folder)), lambda item: None)
    return keyed([json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()])


def test_both_engines_give_the_same_rows(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in SAMPLES:
        shutil.copy(sample, folder)
    (folder / "broken.png").write_bytes(SAMPLES[0].read_bytes()[:200])
    sampling = {"do_sample": True, "temperature": 1.1, "seed": 5, "max_new_tokens": 12}
    flags = ["--question", QUESTION, "--max-new-tokens", "12", "--seed", "5", "--temperature", "1.1", "--device", "cpu"]
    where = ["--engine", "ray", "--ray-address", cluster.address]
    done = run(["caption", "images", "-o", "out", *flags, *where], tmp_path)
    assert done.returncode == 1, done.stderr[-3000:]
    count = len(SAMPLES) + 1
    assert f"answered {count} of {count} images; 1 row with an error in out (" in done.stderr
    assert parts(tmp_path / "out") == local(folder, tmp_path / "out.jsonl", **sampling)


def test_the_pages_command_starts_a_ray_of_its_own(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "en" / "scale.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith("visualglm ") and line.endswith("--engine ray"))
    (tmp_path / "visualglm").mkdir()
    shutil.copytree(visualglm.packed_model(), tmp_path / "visualglm" / "mini")
    done = run(line.split()[1:], tmp_path, RAY_ADDRESS="", PYTHONSAFEPATH="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert {image for image, _ in parts(tmp_path / "captions")} == {sample.name for sample in PICTURES}
