"""Processor seconds from the shell to the packed model's whole answer, relative to the imports (`make bench`).

Each round starts `visualglm ask` and, right before it, a Python that only imports torch and transformers; other
processes on the machine disturb the ratio of the two least. A third process marks the parts of an answer. Prints one
JSON object and stores it in `benchmarks/results/first_answer.json`. Quality is not measured.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

from record import RESULTS, origin, store

import visualglm

ROUNDS = 7
QUESTION = "这张图片里有什么？"
IMPORTS = "import torch, transformers.modeling_utils"
PARTS = """
import json, sys, time
marks = [time.process_time()]
from visualglm.cli.options import import_libraries
import_libraries()
marks.append(time.process_time())
import visualglm
model = visualglm.load()
marks.append(time.process_time())
model.ask(sys.argv[1], sys.argv[2])
marks.append(time.process_time())
print(json.dumps(marks))
"""


def main() -> None:
    """Run the processes in turn."""
    sample = str(sorted((visualglm.packed_model() / "samples").glob("*.png"))[0])
    ask = ["-m", "visualglm", "ask", sample, QUESTION]
    seconds(ask)  # the first start reads the disk
    rounds = [(seconds(["-c", IMPORTS])[0], seconds(ask)[0], parts(sample)) for _ in range(ROUNDS)]
    figures = {
        **origin(__file__),
        "rounds": ROUNDS,
        "imports_seconds": round(statistics.median(imports for imports, _, _ in rounds), 2),
        "answer_seconds": round(statistics.median(answer for _, answer, _ in rounds), 2),
        "answer_over_imports": round(statistics.median(answer / imports for imports, answer, _ in rounds), 2),
        "parts": {name: round(statistics.median(one[name] for _, _, one in rounds), 2) for name in rounds[0][2]},
    }
    store(RESULTS / "first_answer.json", figures)


def seconds(arguments: Sequence[str]) -> tuple[float, str]:
    """Return the processor seconds of a Python that must succeed, and what it wrote to stdout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, process.stdout


def parts(sample: str) -> dict[str, float]:
    """Return the processor seconds of the parts of an answer, which sum to those of its process."""
    whole, output = seconds(["-c", PARTS, sample, QUESTION])
    names = ("start", "imports", "opening", "answer", "exit")
    marks = itertools.pairwise([0.0, *json.loads(output), whole])
    return {name: after - before for name, (before, after) in zip(names, marks, strict=True)}


if __name__ == "__main__":
    main()
