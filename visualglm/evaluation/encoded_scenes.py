"""Generate test scenes, their questions, and their image embeddings.

Seeds are those of the test split, unless another split is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from torch import Tensor

from ..conversation import VisualGLM
from .batch_answering import AskedQuestion, encode
from .scenes.kinds import LANGUAGES, Language
from .scenes.questions import exchange_of
from .scenes.render import render_scene
from .scenes.scene import Scene, scene_of
from .scenes.split_seeds import Split, seeds

TASKS = (
    *("describe", "list", "name", "name by colour", "name by place", "colour", "total", "count", "where"),
    *("side", "height", "exists", "background", "category", "any", "size", "same colour", "odd", "shapes", "off topic"),
    *("colour", "side", "height", "size", "same colour"),  # asked twice, because many scenes do not allow them
)
MAX_OBJECTS = 6


def drawn_scenes(count: int, split: Split = Split.TEST, most: int = MAX_OBJECTS) -> list[Scene]:
    """Generate `count` scenes of at most `most` drawn objects."""
    return [scene_of(seed, most=most) for seed in islice(seeds(split), count)]


def questions(scenes: Sequence[Scene], tasks: Sequence[str] = TASKS) -> list[AskedQuestion]:
    """Ask every task about every scene that allows it, in both languages; duplicates within a scene are dropped."""
    asked: dict[tuple[int, Language, str], AskedQuestion] = {}
    for index, scene in enumerate(scenes):
        for number, task in enumerate(tasks):
            for language in LANGUAGES:
                exchange = exchange_of(task, scene, language, np.random.default_rng((scene.seed, number)))
                if exchange is not None:
                    asked.setdefault((index, language, exchange.question), AskedQuestion(index, exchange))
    return list(asked.values())


def encode_scenes(model: VisualGLM, scenes: Sequence[Scene]) -> Tensor:
    """Render and encode scenes; returns [scenes, image_length, hidden]."""
    return encode(model, (render_scene(scene) for scene in scenes)).embeds
