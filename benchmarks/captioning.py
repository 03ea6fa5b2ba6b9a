"""Images per second of bulk captioning at batch 1 and 8 (`make bench-caption`).

Captions drawn images with the model (default: the packed one) and stores the figures in
`benchmarks/results/captioning.json`. `--images N` sets their number. `--model 6b` has the 6B's shapes with random
weights, the language model in 4 bits, the rest in 8 (6 GB of memory); its captions have 40 tokens, and the figures go
to `captioning_6b.json`. Quality is not measured.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

from full_size import VOCABULARY, configuration
from record import RESULTS, origin, store, timed

import visualglm
from visualglm.benchmarking.random_weights import random_model
from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.local_engine import CaptionPlan, CaptionRun
from visualglm.captioning.sources import read_source
from visualglm.checkpoints import quantization_plan
from visualglm.cli.options import SIX_B
from visualglm.evaluation.scenes import Split, render_scene, scene_of, seeds
from visualglm.inference.image_features import encode_pixels
from visualglm.kernels import cpu_backend
from visualglm.preprocessing.processor import VisualGLMProcessor

QUESTION = "描述这张图片。"
TOKENS = 40
"""Length of the captions of random weights, about that of a published caption of the 6B."""


def main() -> None:
    """Run both batch sizes over the same images."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="visualglm-mini")
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    full_size = options.model == SIX_B
    model = random_six_b() if full_size else visualglm.load(options.model)
    sampling = {"do_sample": False, "max_new_tokens": TOKENS} if full_size else {}
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.images)
        speeds = {f"images_per_second_at_batch_{n}": speed(model, Path(folder), n, sampling) for n in (1, 8)}
        encoding = image_seconds(model, Path(folder))
    figures = {
        **origin(__file__),
        "model": options.model,
        "device": str(model.model.device),
        "kernel": cpu_backend.path(),
        "images": options.images,
        **speeds,
        **{name.replace("second_", "minute_"): round(60 * value, 1) for name, value in speeds.items()},
        "image_seconds": round(encoding, 3),
    }
    store(RESULTS / ("captioning_6b.json" if full_size else "captioning.json"), figures)


def random_six_b() -> visualglm.VisualGLM:
    """Build the model of the 6B's shapes; nothing it writes ends before `TOKENS`."""
    config = configuration(1)
    model = random_model(config, quantization_plan(4, vision=8, vocabulary=8))
    return visualglm.VisualGLM(model, VisualGLMProcessor.for_config(config, VOCABULARY))


def draw(folder: Path, count: int) -> None:
    """Write drawn scenes as files."""
    for seed in itertools.islice(seeds(Split.TEST), count):
        render_scene(scene_of(seed)).save(folder / f"{seed}.png")


def speed(model: visualglm.VisualGLM, folder: Path, batch_size: int, sampling: dict[str, Any]) -> float:
    """Return images per second, from the folder to written rows."""
    items = read_source(str(folder))
    with JsonlResults(folder / f"{batch_size}.jsonl") as results:
        run = CaptionRun(model, results, CaptionPlan(QUESTION, batch_size=batch_size), sampling)
        _, seconds = timed(lambda: run(items, lambda item: None))
    return round(len(items) / seconds, 3)


def image_seconds(model: visualglm.VisualGLM, folder: Path) -> float:
    """Return the time to encode an image, the limit of bulk captioning: a batch shortens the rest."""
    pixels = model.pixel_values(next(folder.glob("*.png")))
    return min(timed(encode_pixels, model.model, pixels)[1] for _ in range(3))


if __name__ == "__main__":
    main()
