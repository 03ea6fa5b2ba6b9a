"""Peak memory of fine-tuning against its plan, and what cached features save.

`make bench-finetune`, or parts of it:

    python benchmarks/finetuning.py             # everything
    python benchmarks/finetuning.py packed      # only the packed model
    python benchmarks/finetuning.py wide        # the 6B's widths, two blocks of each network, random weights
    python benchmarks/finetuning.py cache       # LoRA with and without cached features

Each run is a separate process. Its peak anonymous memory during training, less what it had before the model was loaded,
is compared with the plan. The wide model is scaled down and marked so; `full` is left out there, because it would take
16 bytes for each of a billion parameters. Stores the figures in `benchmarks/results/finetuning.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from full_size import VOCABULARY, configuration
from record import RESULTS, origin, status_field, store

import visualglm
from visualglm.finetuning import run
from visualglm.finetuning.config import read_finetuning
from visualglm.hardware.machine_report import peak_memory
from visualglm.hardware.memory import anonymous_memory
from visualglm.model import VisualGLMForConditionalGeneration

RESULT = RESULTS / "finetuning.json"
METHODS = {"packed": ("lora", "qlora", "ptuning", "full"), "wide": ("lora", "qlora", "ptuning")}
ROWS = {"packed": 16, "wide": 2}
STEPS = {"packed": 3, "wide": 2}
CACHED_STEPS = 24
LABEL = "图中有一个白色的月亮和一条黑色的鱼，背景是绿色的草地。"
BLOCKS = 2
UNCUT_BLOCKS = 28


def mapped_files() -> int:
    """Return the bytes of mapped file pages that this process holds now."""
    return status_field(Path("/proc/self/status"), "RssFile")


def main() -> None:
    """Run the command line; a child process gets `--one`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["packed", "wide", "cache"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_run(**json.loads(options.one))))
        return
    stored = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    for what in options.what:
        figures = cache_figures() if what == "cache" else memory_figures(what)
        stored[what] = {**origin(__file__), "command": f"python benchmarks/finetuning.py {what}", **figures}
        store(RESULT, stored)


def memory_figures(kind: str) -> dict[str, Any]:
    """Return each method's peak and estimate, in bytes."""
    rows = [{"img": str(sample_image()), "prompt": "图中有什么？", "label": LABEL}] * ROWS[kind] * STEPS[kind]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = wide_model(folder / "model") if kind == "wide" else None
        settings = [f"batch={ROWS[kind]}", *(["dtype='bfloat16'"] if kind == "wide" else [])]
        found = {method: child(folder, rows, method, settings, model) for method in METHODS[kind]}
    for figures in found.values():
        figures["measured_over_estimated"] = round(figures["peak_bytes"] / figures["estimated_bytes"], 2)
        figures.pop("cpu_seconds")
    facts = {"scaled": True, "blocks": BLOCKS, "of_blocks": UNCUT_BLOCKS} if kind == "wide" else {"scaled": False}
    return {**facts, "rows_per_step": ROWS[kind], "methods": found}


def cache_figures() -> dict[str, Any]:
    """Return CPU seconds of the same LoRA run with each image encoded once, and at every step."""
    rows = [{"img": str(image), "prompt": "图中有什么？", "label": LABEL} for image in sample_images()] * 2
    settings = ["batch=8", f"epochs={CACHED_STEPS}"]
    with tempfile.TemporaryDirectory() as name:
        seconds = {
            word: child(Path(name), rows, "lora", [*settings, f"cache_features={word}"])["cpu_seconds"]
            for word in ("true", "false")
        }
    return {
        "model": "visualglm-mini",
        "steps": CACHED_STEPS,
        "rows_per_step": 8,
        "cpu_seconds_cached": seconds["true"],
        "cpu_seconds_not_cached": seconds["false"],
        "speed_up": round(seconds["false"] / seconds["true"], 2),
    }


def sample_images() -> list[Path]:
    return sorted((visualglm.packed_model() / "samples").glob("*.png"))


def sample_image() -> Path:
    return sample_images()[0]


def child(folder: Path, rows: list[dict[str, str]], method: str, settings: list[str], model: Any = None) -> Any:
    """Run `one_run` in a separate process, whose allocator returns freed memory."""
    data = folder / "data.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    output = tempfile.mkdtemp(dir=folder)
    fixed = ["validation_share=0.0", "answers=0", "max_new_tokens=1", "save_steps=1000", *settings]
    if not any(setting.startswith("epochs") for setting in settings):
        fixed.append("epochs=1")
    asked = {"data": str(data), "output": output, "method": method, "model": model and str(model), "settings": fixed}
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--one", json.dumps(asked)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def one_run(data: str, output: str, method: str, model: str | None, settings: list[str]) -> dict[str, Any]:
    """Train; return the peak beyond the program, the plan's estimate, and the loop's CPU seconds."""
    recipe = read_finetuning(None, tuple(settings), data=data, output=output, method=method, model=model)
    plans: list[Any] = []
    spent: list[tuple[int, float]] = []
    planned, trained, before, after = run.plan_of, run._train, run._answer_before, run.evaluate_and_report

    def noted(*args: Any) -> Any:
        plans.append(planned(*args))
        return plans[0]

    def timed(*args: Any) -> Any:
        started = time.process_time()
        with peak_memory() as peak:
            end = trained(*args)
        spent.append((peak[0], time.process_time() - started))
        return end

    run.plan_of, run._train = noted, timed
    run._answer_before, run.evaluate_and_report = (
        (lambda *_: [[], []]),
        (lambda *_: None),
    )  # no answers: only training is measured
    import peft  # noqa: F401  counted as the program

    warmed = torch.nn.Linear(4, 4)(torch.ones(1, 4)).sum()
    warmed.backward()
    program, files = anonymous_memory(), mapped_files()
    try:
        run.finetune(recipe, lambda line: None, device="cpu")
    finally:
        run.plan_of, run._train, run._answer_before, run.evaluate_and_report = planned, trained, before, after
    memory, (peak_bytes, seconds) = plans[0].memory, spent[0]
    mapped = mapped_files() - files  # weights that are still pages of their file
    return {
        "estimated_bytes": memory.total,
        "estimated": dataclasses.asdict(memory),
        "peak_bytes": peak_bytes - program + mapped,
        "of_it_mapped_bytes": mapped,
        "program_bytes": program,
        "cpu_seconds": round(seconds, 2),
    }


def wide_model(folder: Path) -> Path:
    """Build a model with the 6B's widths and vocabulary, two random blocks per network, in bfloat16."""
    config = configuration(1)
    config.num_layers = config.vision.num_layers = config.qformer.num_layers = BLOCKS
    config.qformer.cross_attention_layers = [0]
    config.tie_word_embeddings, config.dtype = True, "bfloat16"
    with torch.device("meta"):
        model = VisualGLMForConditionalGeneration(config)
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    model.tie_weights()
    for name, value in model.named_parameters():
        value.data.fill_(1.0 if "layernorm.weight" in name or "ln_vision.weight" in name else 0.001)
    model.save_pretrained(folder)
    (folder / "ice_text.model").write_bytes(VOCABULARY.read_bytes())
    return folder


if __name__ == "__main__":
    main()
