"""benchmarks/ray_captioning: the local engine, one Ray actor, two Ray actors, in one run (`make bench-ray`).

Captions the same drawn pictures with the packed model, each engine with one thread a model, and stores the figures in
`benchmarks/results/ray_captioning.json`: seconds until Ray runs, until the first part lies there (the actor opens its
model in these), and pictures per second after it. `--pictures N` changes how many. Says nothing about networks or GPUs.
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
from visualglm.captioning import cluster
from visualglm.captioning.parts import Parts
from visualglm.captioning.results import Results
from visualglm.captioning.run import Plan, Run, open_answers
from visualglm.captioning.sources import Item, read_source

PLAN = Plan(QUESTION, batch_size=8)
CHUNK = 16
"""Pictures in a part; more would hide the end of a short run."""
OPEN = functools.partial(visualglm.load, device="cpu")


def main() -> None:
    """Runs the three over the same pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cluster.CHUNK = CHUNK
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.pictures)
        items = read_source(folder)
        runs = {"local": local(items, Path(folder))}
        entering = cluster.connected(None)
        _, start = timed(entering.__enter__)
        for actors in (1, 2):
            runs[f"ray_{actors}"] = on_ray(items, Path(folder) / str(actors), actors)
        entering.__exit__(None, None, None)
    figures = {
        **origin(__file__),
        "ray": version("ray"),
        "model": "visualglm-mini",
        "pictures": options.pictures,
        "pictures_a_part": CHUNK,
        "ray_start_seconds": round(start, 1),
        **runs,
    }
    store(RESULTS / "ray_captioning.json", figures)


def local(items: list[Item], folder: Path) -> dict[str, Any]:
    """Opens the model and answers here."""
    model, opening = timed(OPEN)
    told = []
    with Results(folder / "local.jsonl") as results:
        Run(model, results, PLAN, {})(items, lambda item: told.append(time.perf_counter()))
    later = len(told) - CHUNK  # as on Ray: what comes after the first part, which warms up
    return {"open_seconds": round(opening, 1), "images_per_second": round(later / (told[-1] - told[CHUNK - 1]), 2)}


def on_ray(items: list[Item], out: Path, actors: int) -> dict[str, Any]:
    """Answers by actors of a core each."""
    opener = functools.partial(open_answers, OPEN, PLAN, {})
    began = time.perf_counter()
    told = []
    with Parts(out) as parts:
        for count in cluster.answer(items, parts, opener, cluster.Pool(actors, 1, 0)):
            told.append((count, time.perf_counter()))
    later = sum(count for count, _ in told[actors:])  # by then every actor's first part is written
    return {
        "first_part_seconds": round(told[0][1] - began, 1),
        "images_per_second": round(later / (told[-1][1] - told[actors - 1][1]), 2),
    }


if __name__ == "__main__":
    main()
