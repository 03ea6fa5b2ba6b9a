"""Images per second of bulk captioning at batch 1 and 8 (`make bench-caption`).

Captions drawn images with the model (default: the packed one) and stores the figures in
`benchmarks/results/captioning.json`. `--images N` sets their number. Quality is not measured.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

from record import RESULTS, origin, store, timed

import visualglm
from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.local_engine import CaptionPlan, CaptionRun
from visualglm.captioning.sources import read_source
from visualglm.evaluation.scenes import Split, render_scene, scene_of, seeds

QUESTION = "描述这张图片。"


def main() -> None:
    """Run both batch sizes over the same images."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    model = visualglm.load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.images)
        speeds = {f"images_per_second_at_batch_{size}": speed(model, Path(folder), size) for size in (1, 8)}
    figures = {
        **origin(__file__),
        "model": options.model or "visualglm-mini",
        "device": str(model.model.device),
        "images": options.images,
        **speeds,
    }
    store(RESULTS / "captioning.json", figures)


def draw(folder: Path, count: int) -> None:
    """Write drawn scenes as files."""
    for seed in itertools.islice(seeds(Split.TEST), count):
        render_scene(scene_of(seed)).save(folder / f"{seed}.png")


def speed(model: visualglm.VisualGLM, folder: Path, batch_size: int) -> float:
    """Return images per second, from the folder to written rows."""
    items = read_source(str(folder))
    with JsonlResults(folder / f"{batch_size}.jsonl") as results:
        run = CaptionRun(model, results, CaptionPlan(QUESTION, batch_size=batch_size), {})
        _, seconds = timed(lambda: run(items, lambda item: None))
    return round(len(items) / seconds, 2)


if __name__ == "__main__":
    main()
