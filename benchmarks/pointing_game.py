"""How often the strongest patch of a word's map lies on the object that the word names (`make pointing-game`).

    python benchmarks/pointing_game.py [--scenes N] [-o FILE]

Drawn scenes of the evaluation's seeds, the packed model, both methods of `visualglm explain`, with two controls (see
visualglm/evaluation/pointing_game.py). Stores `benchmarks/results/pointing_game.json`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from record import RESULTS, origin, store

import visualglm
from visualglm.evaluation.pointing_game import figures, play
from visualglm.evaluation.readers.drawn import NOTE, evaluation_scenes

SCENES = 400


def main() -> None:
    """Play on all scenes and store the figures."""
    parser = argparse.ArgumentParser(description="The pointing game on drawn scenes.")
    parser.add_argument("--scenes", type=int, default=SCENES, help="drawn scenes, asked about in two languages")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "pointing_game.json", help="file of the figures")
    arguments = parser.parse_args()
    started = time.time()
    found = list(play(visualglm.load(device="cpu"), evaluation_scenes("scenes", arguments.scenes)))
    hits = {name: entry and entry.to_json() for name, entry in figures(found).items()}
    record = {"scenes": arguments.scenes, "objects": len(found), "note": NOTE, "hits": hits}
    store(arguments.output, {**origin(__file__), "seconds": round(time.time() - started), **record})


if __name__ == "__main__":
    main()
