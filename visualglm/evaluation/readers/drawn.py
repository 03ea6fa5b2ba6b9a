"""Rows without a file: drawn scenes of the evaluation's own seeds, for each task, in Chinese and English.

They let every task run offline. Drawn scenes measure whether objects, colours and places are recognised, not
photographs.
"""

from __future__ import annotations

from functools import partial
from itertools import islice

import numpy as np
from numpy.random import Generator

from ..examples import Example, Examples
from ..scenes import answers
from ..scenes.kinds import COLOURS, KINDS, LANGUAGES, ZONES, Language
from ..scenes.qa_pair import QAPair
from ..scenes.questions import exchange_of
from ..scenes.render import render_scene
from ..scenes.scene import Scene, scene_of
from ..scenes.split_seeds import Split, seeds
from ..tasks.choice import LETTERS

DRAWN_SCENES = 100
"""Scenes of a run without --limit; each gives one row per language and kind of question."""
MAX_OBJECTS = 4
OPTIONS = 4
NOTE = "drawn scenes measure binding and presence, not photographs"
FIRST_SEED = {"caption": 0, "vqa": 1_000_000, "pope": 2_000_000, "choice": 3_000_000, "scenes": 4_000_000}
"""Where a task begins in the seeds of `Split.EVALUATION`."""


def evaluation_scenes(task: str, count: int, most: int = MAX_OBJECTS) -> list[Scene]:
    """Draw the scenes of a task; their seeds belong to no other split."""
    chosen = islice(seeds(Split.EVALUATION, FIRST_SEED[task]), count)
    return [scene_of(seed, most=most) for seed in chosen]


def drawn_examples(task: str, scenes: int | None = None) -> Examples:
    """Ask the task's kinds of questions about drawn scenes, in both languages."""
    rows: list[Example] = []
    for scene in evaluation_scenes(task, scenes or DRAWN_SCENES):
        for kind in QUESTION_KINDS[task]:
            for language in LANGUAGES:
                rows += _examples(task, scene, kind, language, len(rows))
    return Examples("drawn scenes", rows, [NOTE])


QUESTION_KINDS = {
    "caption": ("describe",),
    "vqa": ("colour", "count", "name by place", "where"),
    "pope": ("exists",),
    "choice": ("colour", "where", "name by place"),
}


def _examples(task: str, scene: Scene, kind: str, language: Language, number: int) -> list[Example]:
    rng = np.random.default_rng((scene.seed, len(kind)))
    exchange = exchange_of(kind, scene, language, rng)
    if exchange is None or exchange.task == "absent":
        return []
    options = _options(exchange, rng) if task == "choice" else ()
    truth = LETTERS[options.index(exchange.truth)] if options else exchange.truth
    key = str(scene.seed)
    facets = {"language": language} | ({"question": kind} if len(QUESTION_KINDS[task]) > 1 else {})
    id = f"{key}/{kind}/{language}"
    return [Example(id, number, partial(render_scene, scene), key, exchange.question, (truth,), options, facets)]


def _options(exchange: QAPair, rng: Generator) -> tuple[str, ...]:
    """Draw wrong options beside the true one, in random order."""
    every = {
        "colour": [answers.hue(colour, exchange.language) for colour in COLOURS],
        "where": [answers.place(zone, exchange.language) for zone in ZONES],
        "name": [answers.noun(kind, exchange.language) for kind in KINDS],
    }[exchange.task]
    others = [option for option in every if option != exchange.truth]
    chosen = [others[int(index)] for index in rng.choice(len(others), OPTIONS - 1, replace=False)]
    chosen.insert(int(rng.integers(OPTIONS)), exchange.truth)
    return tuple(chosen)
