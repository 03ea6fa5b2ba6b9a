"""The background example by LoRA, QLoRA or P-tuning (`make finetune-demo` and its siblings).

    python benchmarks/finetune_demo.py lora qlora ptuning

Draws the data, trains each recipe on the packed model on a CPU, and stores in `benchmarks/results/finetune_demo.json`
how many held-out answers were right before and after, and how many answers outside the data did not change.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import RESULTS, origin, store

import visualglm
from visualglm.adapters.files import base_of
from visualglm.errors import UsageError
from visualglm.finetuning import run
from visualglm.finetuning.config import read_finetuning
from visualglm.finetuning.trainer import read_metrics

ROOT = Path(__file__).resolve().parents[1]
RESULT = RESULTS / "finetune_demo.json"
DATA = "runs/background"
METHODS = ("lora", "qlora", "ptuning")


def main(methods: list[str]) -> None:
    """Run the recipes and merge their figures with earlier ones of the same base."""
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise UsageError(f"There is no example {unknown[0]}. Choose from {', '.join(METHODS)}.")
    subprocess.run([sys.executable, "examples/finetune_background/draw.py", DATA], cwd=ROOT, check=True)
    base = base_of(visualglm.packed_model()).fingerprint
    stored = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    found = stored["methods"] if stored.get("base") == base else {}
    for method in methods:
        found[method] = trained(method)
        known = {name: found[name] for name in METHODS if name in found}
        figures = {"command": f"python benchmarks/finetune_demo.py {' '.join(known)}", "base": base, "methods": known}
        store(RESULT, figures)


def trained(method: str) -> dict[str, Any]:
    """Return one recipe's figures; CPU seconds do not depend on other processes."""
    output = next(free for free in numbered(f"{DATA}/{method}") if not free.exists())
    recipe = read_finetuning(ROOT / f"recipes/finetune/background-{method}.toml", output=str(output))
    started = time.process_time()
    if not run.finetune(recipe, print, device="cpu"):
        raise SystemExit("stopped before its end: run again.")
    steps = [row for row in read_metrics(output / "metrics.jsonl") if "loss" in row]
    return {
        **json.loads((output / "result.json").read_text(encoding="utf-8")),
        "last_loss": steps[-1]["loss"],
        "steps": steps[-1]["step"],
        "cpu_seconds": round(time.process_time() - started),
        **origin(__file__),
    }


def numbered(name: str) -> Any:
    """Return the first free name of `name`, `name-2`, `name-3`, ..., so that earlier runs stay."""
    yield Path(name)
    yield from (Path(f"{name}-{number}") for number in range(2, 1000))


if __name__ == "__main__":
    main(sys.argv[1:] or list(METHODS))
