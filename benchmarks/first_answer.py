"""Seconds from the shell to the packed model's whole answer, relative to the imports (`make bench`).

Each round starts `visualglm ask` and, right before it, a Python that only imports torch and transformers; other
processes on the machine disturb the ratio of the two least. Prints one JSON object and stores it in
`benchmarks/results/first_answer.json`. Quality is not measured.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from record import RESULTS, origin, store, timed

import visualglm

ROUNDS = 5
IMPORTS = [sys.executable, "-c", "import torch, transformers.modeling_utils"]


def main() -> None:
    """Run the pairs."""
    sample = sorted((visualglm.packed_model() / "samples").glob("*.png"))[0]
    ask = [sys.executable, "-m", "visualglm", "ask", str(sample), "这张图片里有什么？"]
    seconds(ask)  # the first start reads the disk
    pairs = [(seconds(IMPORTS), seconds(ask)) for _ in range(ROUNDS)]
    figures = {
        **origin(__file__),
        "rounds": ROUNDS,
        "imports_seconds": round(statistics.median(imports for imports, _ in pairs), 2),
        "answer_seconds": round(statistics.median(answer for _, answer in pairs), 2),
        "answer_over_imports": round(statistics.median(answer / imports for imports, answer in pairs), 2),
    }
    store(RESULTS / "first_answer.json", figures)


def seconds(command: list[str]) -> float:
    """Return the wall time of a process that must succeed."""
    return timed(lambda: subprocess.run(command, check=True, capture_output=True))[1]


if __name__ == "__main__":
    main()
