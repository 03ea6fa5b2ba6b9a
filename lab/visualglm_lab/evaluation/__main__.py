"""Evaluate the packed model: scenes, single images, dialogues, controls, goals.

Run: `python -m visualglm_lab.evaluation --model DIR --album runs/images -o lab/recipes/mini/figures.json`. Without
an album only drawn scenes are evaluated. Decoding is greedy, on test seeds and test splits; every choice (a
threshold, the best features) is made on validation images.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from visualglm.conversation import VisualGLM, load
from visualglm.evaluation.batch_answering import AskedQuestion
from visualglm.evaluation.confidence import fraction_of
from visualglm.evaluation.encoded_scenes import drawn_scenes, encode_scenes
from visualglm.evaluation.scenes.scene import Scene
from visualglm.hub.local_folder import packed_model

from ..scenes.cutouts import Album
from .album_images import AlbumImages
from .dialogue_eval import evaluate_dialogues
from .naming_eval import Named, evaluate_names, wrong_names
from .origin import origin
from .scene_eval import UNSEEN, evaluate_scenes, pasted_scenes, wrong_answers
from .targets import as_rows, leaks

T = TypeVar("T")
SCENES = 200


class Evaluation:
    """Collects the results of one evaluation."""

    def __init__(self, model: VisualGLM, scenes: int = SCENES, images: int | None = None) -> None:
        self.model, self.scenes, self.images = model, scenes, images
        self.figures: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.wrong: dict[str, Any] = {}

    def run(self, album: Path | None) -> dict[str, Any]:
        """Measure everything that is possible with or without an album."""
        self._scenes("drawn", drawn_scenes(self.scenes))
        if album is not None:
            self._scenes("cut-outs", pasted_scenes(self.scenes, Album(album, UNSEEN)))
            self._names(AlbumImages(album))
        self.figures["zh = en"] = self._agreement()
        self.figures |= {"goals": as_rows(self.figures), "leaks": leaks(self.figures)}
        return {**self.figures, "seconds": self.seconds, "wrong": self.wrong}

    def _scenes(self, part: str, scenes: list[Scene]) -> None:
        answered: list[AskedQuestion]
        images = self._time(f"pictures, {part}", lambda: encode_scenes(self.model, scenes))
        self.figures[part], answered = self._time(part, lambda: evaluate_scenes(self.model, scenes, images))
        table, _ = self._time(f"follow-up, {part}", lambda: evaluate_dialogues(self.model, scenes, images))
        self.figures.setdefault("follow-up", {})[part] = table
        self.wrong[part] = wrong_answers(answered)

    def _names(self, gallery: AlbumImages) -> None:
        said: dict[str, list[Named]]
        run = self._time("names", lambda: evaluate_names(self.model, gallery, self.images))
        self.figures["names"], said = run
        self.wrong |= {split: wrong_names(rows) for split, rows in said.items() if split != "validation"}

    def _agreement(self) -> dict[str, Any]:
        """Compute the agreement of languages over all questions that were asked in both."""
        parts = [self.figures[part]["zh = en"] for part in ("drawn", "cut-outs") if part in self.figures]
        names = self.figures.get("names", {})
        parts += [names[split]["zh = en"] for split in ("held_out", "unseen_style") if split in names]
        right = sum(round(part["share"] * part["n"]) for part in parts)
        total = sum(part["n"] for part in parts)
        return dict(fraction_of([i < right for i in range(total)]))

    def _time(self, name: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - started, 1)
        print(f"{name}: {self.seconds[name]} s", file=sys.stderr)
        return result


def main(arguments: Sequence[str]) -> None:
    """Write the results and print the goals."""
    parser = argparse.ArgumentParser(description="Every figure of a small model, with intervals, controls and goals.")
    parser.add_argument("--model", type=Path, default=packed_model(), help="folder of the model; the packed one")
    parser.add_argument("--album", type=Path, help="folder of album.npy and manifest.jsonl; none: drawn scenes only")
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes of each sort")
    parser.add_argument("--images", type=int, help="pictures of each split at most (training: 20 times as many); all")
    parser.add_argument("--threads", type=int, help="of torch; as many as there are cores")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    if options.output:  # now, not after hours
        if options.output.is_dir():
            parser.error(f"-o {options.output} is a folder: name a file in it.")
        options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    result = {"command": "python -m visualglm_lab.evaluation " + shlex.join(arguments)}
    result |= origin(options.model, options.album)
    result |= Evaluation(load(options.model), options.scenes, options.images).run(options.album)
    for row in result["goals"]:
        print(json.dumps(row, ensure_ascii=False))
    if options.output:
        options.output.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
