"""An image file to pixel_values: decoded and resized once, against the previous way through arrays (`make
bench-image`).

Previously the command opened the file, the image was copied twice before the image processor, converted to an array of
full size, and back to an image for resizing. Both ways run in turn in one process; their pixels must be equal. Stores
`benchmarks/results/image_input.json`: the medians, and those of decoding and resizing alone, the lower bound of both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import RESULTS, origin, store
from torch import Tensor
from transformers.image_processing_backends import PilBackend

from visualglm.hardware.machine_report import timed_alone
from visualglm.preprocessing.images import VisualGLMImageProcessor, open_image

SIZE = (4000, 3000)
SIDE = 224


class ThroughArrays(VisualGLMImageProcessor):
    """The previous way, which is transformers' own."""

    def process_image(self, image: Image.Image, **kwargs: Any) -> np.ndarray:  # type: ignore[override]
        """Return uint8 [3, H, W], not resized yet."""
        return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)

    resize = PilBackend.resize


def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        drawn_photo().save(path, quality=90)
        seconds = measure(ways(path), options.runs)
    before, now = seconds["before"], seconds["now"]
    figures = {
        **origin(__file__),
        "megapixels": SIZE[0] * SIZE[1] / 1e6,
        "side": SIDE,
        "runs": options.runs,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "times_as_fast": round(before / now, 2),
    }
    store(RESULTS / "image_input.json", figures)


def drawn_photo() -> Image.Image:
    """Draw smooth noise, which has as many bytes per pixel as a photograph."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1] // 20, SIZE[0] // 20, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)


def ways(path: Path) -> dict[str, Callable[[], Any]]:
    """Return the measured functions by name."""
    size, image = {"height": SIDE, "width": SIDE}, open_image(path)
    processor, through_arrays = VisualGLMImageProcessor(size=size), ThroughArrays(size=size)

    def before() -> Tensor:
        opened = open_image(path).convert("RGB")
        return through_arrays(opened, return_tensors="pt")["pixel_values"]  # type: ignore[no-any-return]

    def now() -> Tensor:
        return processor.read(path)

    assert torch.equal(before(), now()), "the pixels are the same bits"
    return {
        "before": before,
        "now": now,
        "decoding_alone": lambda: open_image(path),
        "resizing_alone": lambda: image.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
    }


def measure(measured: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Return the median seconds of each, all in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(runs):
        for name, run in measured.items():
            seconds[name].append(timed_alone(run)[1])
    return {name: statistics.median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    main()
