"""The local engine, one Ray actor and two Ray actors in one run (`make bench-ray`).

Captions the same drawn images with the packed model, each engine with one thread per model, and stores the figures in
`benchmarks/results/ray_captioning.json`: seconds until Ray runs, until the first part is written (including loading the
model in the actor), and images per second after it. `--images N` sets their number. Networks and GPUs are not measured.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from captioning import QUESTION, draw
from record import RESULTS, origin, store, timed

import visualglm
from visualglm.captioning import ray_engine
from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.local_engine import CaptionPlan, CaptionRun, open_answers
from visualglm.captioning.parquet_results import ParquetResults
from visualglm.captioning.sources import CaptionItem, read_source

PLAN = CaptionPlan(QUESTION, batch_size=8)
CHUNK = 16
"""Images per part; more would hide the end of a short run."""
OPEN = functools.partial(visualglm.load, device="cpu")


def main() -> None:
    """Run the three over the same images."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ray_engine.CHUNK = CHUNK
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.images)
        items = read_source(folder)
        runs = {"local": local(items, Path(folder))}
        entering = ray_engine.connected(None)
        _, start = timed(entering.__enter__)
        for actors in (1, 2):
            runs[f"ray_{actors}"] = on_ray(items, Path(folder) / str(actors), actors)
        entering.__exit__(None, None, None)
    figures = {
        **origin(__file__),
        "ray": version("ray"),
        "model": "visualglm-mini",
        "images": options.images,
        "images_a_part": CHUNK,
        "ray_start_seconds": round(start, 1),
        **runs,
    }
    store(RESULTS / "ray_captioning.json", figures)


def local(items: list[CaptionItem], folder: Path) -> dict[str, Any]:
    """Load the model and answer in this process."""
    model, opening = timed(OPEN)
    told = []
    with JsonlResults(folder / "local.jsonl") as results:
        CaptionRun(model, results, PLAN, {})(items, lambda item: told.append(time.perf_counter()))
    later = len(told) - CHUNK  # as on Ray: everything after the first part, which warms up
    return {"open_seconds": round(opening, 1), "images_per_second": round(later / (told[-1] - told[CHUNK - 1]), 2)}


def on_ray(items: list[CaptionItem], out: Path, actors: int) -> dict[str, Any]:
    """Answer by actors with one core each."""
    opener = functools.partial(open_answers, OPEN, PLAN, {})
    began = time.perf_counter()
    told = []
    with ParquetResults(out) as parts:
        for count in ray_engine.answer(items, parts, opener, ray_engine.Pool(actors, 1, 0)):
            told.append((count, time.perf_counter()))
    later = sum(count for count, _ in told[actors:])  # by now every actor has written its first part
    return {
        "first_part_seconds": round(told[0][1] - began, 1),
        "images_per_second": round(later / (told[-1][1] - told[actors - 1][1]), 2),
    }


if __name__ == "__main__":
    main()
