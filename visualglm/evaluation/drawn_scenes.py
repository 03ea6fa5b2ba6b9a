"""Test scenes -> every question that they allow, and the vectors of their pictures.

Test seeds only, unless another split is named. Knows nothing about what is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from torch import Tensor

from ..conversation import VisualGLM
from .answering import AskedQuestion, encode
from .scenes.kinds import LANGUAGES, Language
from .scenes.questions import exchange_of
from .scenes.render import render_scene
from .scenes.scene import Scene, scene_of
from .scenes.split_seeds import Split, seeds

TASKS = (
    *("describe", "list", "name", "name by colour", "name by place", "colour", "total", "count", "where"),
    *("side", "height", "exists", "background", "category", "any", "size", "same colour", "odd", "shapes", "off topic"),
    *("colour", "side", "height", "size", "same colour"),  # again: many scenes do not allow these
)
MOST = 6


def drawn_scenes(count: int, split: Split = Split.TEST, most: int = MOST) -> list[Scene]:
    """Drawn things alone."""
    return [scene_of(seed, most=most) for seed in islice(seeds(split), count)]


def questions(scenes: Sequence[Scene], tasks: Sequence[str] = TASKS) -> list[AskedQuestion]:
    """Every task about every scene that allows it, in both languages; no question twice about one scene."""
    asked: dict[tuple[int, Language, str], AskedQuestion] = {}
    for index, scene in enumerate(scenes):
        for number, task in enumerate(tasks):
            for language in LANGUAGES:
                exchange = exchange_of(task, scene, language, np.random.default_rng((scene.seed, number)))
                if exchange is not None:
                    asked.setdefault((index, language, exchange.question), AskedQuestion(index, exchange))
    return list(asked.values())


def encode_scenes(model: VisualGLM, scenes: Sequence[Scene]) -> Tensor:
    """The picture vectors of every scene, [scenes, image_length, hidden]."""
    return encode(model, (render_scene(scene) for scene in scenes)).slots
