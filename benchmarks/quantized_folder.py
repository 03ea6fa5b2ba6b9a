"""Seconds from a stored 4-bit folder of the 6B's shapes to its first token (`make bench-6b`).

    python benchmarks/quantized_folder.py [--scale N] [--rounds N]

Writes random weights, the language model in 4 bits, the rest in 8, to a temporary folder (5 GB). Processes of their own
then load it from a warm file cache and answer two questions of one token about an image. `overhead_seconds` is what the
first answer takes beyond the second: loading, and arranging the weights for the kernel. Stores
`benchmarks/results/quantized_folder.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from full_size import VOCABULARY, configuration
from record import RESULTS, origin, store

import visualglm
from visualglm.benchmarking.random_weights import random_model
from visualglm.checkpoints import quantization_plan
from visualglm.kernels import cpu_backend
from visualglm.preprocessing.processor import VisualGLMProcessor

FIRST_TOKENS = """
import json, sys, time
from visualglm.cli.options import import_libraries
import_libraries()
import visualglm
marks = [time.perf_counter()]
model = visualglm.load(sys.argv[1], device="cpu", dtype="bfloat16")
marks.append(time.perf_counter())
for _ in range(2):
    model.ask(sys.argv[2], "描述这张图片。", do_sample=False, max_new_tokens=1)
    marks.append(time.perf_counter())
print(json.dumps([after - before for before, after in zip(marks, marks[1:])]))
"""


def main() -> None:
    """Write the folder, and open it in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, choices=(1, 2, 4, 8), default=1, help="divide every width by this")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sample = str(sorted((visualglm.packed_model() / "samples").glob("*.png"))[0])
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.scale)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        open_once(folder, sample)  # warms the file cache
        rounds = [open_once(folder, sample) for _ in range(options.rounds)]
    load, first, second = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    figures = {
        **origin(__file__),
        "kernel": cpu_backend.path(),
        "folder_gb": round(size / 1e9, 2),
        "load_seconds": round(load, 2),
        "first_token_seconds": round(first, 2),
        "second_token_seconds": round(second, 2),
        "overhead_seconds": round(statistics.median(sum(one[:2]) - one[2] for one in rounds), 2),
    }
    store(RESULTS / "quantized_folder.json", figures)


def write(folder: Path, scale: int) -> None:
    """Write the quantized folder, as `visualglm quantize` does."""
    config, plan = configuration(scale), quantization_plan(4, vision=8, vocabulary=8)
    model = random_model(config, plan)
    config.quantization_config = plan  # type: ignore[attr-defined]
    model.save_pretrained(folder)
    VisualGLMProcessor.for_config(config, VOCABULARY).save_pretrained(folder)


def open_once(folder: str, sample: str) -> list[float]:
    """Return the seconds to load, to the first token and to a second first token."""
    command = [sys.executable, "-c", FIRST_TOKENS, folder, sample]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds: list[float] = json.loads(process.stdout)
    return seconds


if __name__ == "__main__":
    main()
