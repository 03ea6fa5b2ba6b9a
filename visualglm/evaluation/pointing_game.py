"""The pointing game: how often the strongest patch of a word's map lies on the object that the word names.

    drawn scenes -- "What objects are there?" --> answers -- attribute --> the strongest patch of each named object

Only objects that the answer names count, and whose name means one object of the scene. Two controls: `chance`, the part
of the image's patches that lie on the object, which a random patch would hit; `other object`, how often the strongest
patch lies on the next object of the scene instead, which a map that shows objects, whatever the word, would hit as
often. Source: Zhang et al. 2016 (arXiv 1608.00507).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from ..conversation import VisualGLM
from ..errors import UsageError
from ..explanation.attribution import Method, attribute
from ..explanation.explanation import AnsweredQuestion, answered_by
from ..explanation.words import Word, find_word
from ..inference.batch_generation import generate_batch
from ..inference.image_features import encode_pixels
from .batch_answering import MAX_ANSWER_TOKENS
from .metrics import Estimate, Metric, estimate
from .scenes.kinds import LANGUAGES, Language
from .scenes.qa_pair import single
from .scenes.questions import exchange_of
from .scenes.render import extent, render_scene
from .scenes.scene import Scene, SceneItem

METHODS: tuple[Method, ...] = get_args(Method)
QUESTION_KIND = "list"


@dataclass(frozen=True)
class PointedObject:
    """One object that an answer names: whether each method's strongest patch hits it, and the controls."""

    id: str
    group: str
    statistics: dict[str, tuple[float, float]]


def play(model: VisualGLM, scenes: Sequence[Scene]) -> Iterator[PointedObject]:
    """Ask about each scene in both languages, and point at every object that is named."""
    for scene in scenes:
        pixels = model.pixel_values(render_scene(scene))
        for language in LANGUAGES:
            asked = _answer(model, scene, pixels, language)
            named = [] if asked is None else _named_objects(model, scene, asked, language)
            if asked is not None and named:
                yield from _point(model, scene, pixels, asked, named, language)


def figures(objects: Sequence[PointedObject]) -> dict[str, Estimate | None]:
    """Estimate the fraction of hits of each method and control; objects of one scene are drawn together."""
    names = dict.fromkeys(name for found in objects for name in found.statistics)
    return {name: estimate(Metric(name, name), objects) for name in names}


def _answer(model: VisualGLM, scene: Scene, pixels: Tensor, language: Language) -> AnsweredQuestion | None:
    exchange = exchange_of(QUESTION_KIND, scene, language, np.random.default_rng(scene.seed))
    if exchange is None:
        return None
    embeds = encode_pixels(model.model, pixels)
    row = model.row(embeds, exchange.question, language, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS)
    generate_batch(model.model, [row])
    return answered_by(row, exchange.question, model.tokenizer)


def _named_objects(
    model: VisualGLM, scene: Scene, asked: AnsweredQuestion, language: Language
) -> list[tuple[SceneItem, Word]]:
    """Return the objects that the answer names, with the tokens of the name."""
    found = []
    for item in single(scene):
        for name in item.kind.zh if language == "zh" else item.kind.en:
            try:
                found.append((item, find_word(model.tokenizer, asked.answer_ids, name)))
            except UsageError:
                continue
            break
    return found


def _point(
    model: VisualGLM,
    scene: Scene,
    pixels: Tensor,
    asked: AnsweredQuestion,
    named: Sequence[tuple[SceneItem, Word]],
    language: Language,
) -> Iterator[PointedObject]:
    ids = torch.tensor([asked.prompt_ids + asked.answer_ids])
    maps = {
        method: attribute(model.model, ids, len(asked.answer_ids), pixels, method=method).maps for method in METHODS
    }
    side = round(maps[METHODS[0]].shape[1] ** 0.5)
    for item, word in named:
        own = patches_of(item, scene, side)
        following = scene.items[(scene.items.index(item) + 1) % len(scene.items)]
        other = patches_of(following, scene, side) & ~own if len(scene.items) > 1 else None
        statistics = {"chance": (float(own.mean()), 1.0)}
        for method, rows in maps.items():
            strongest = int(rows[list(word.tokens)].mean(0).argmax())
            statistics[method] = (float(own.flat[strongest]), 1.0)
            if other is not None:
                statistics[f"{method}, other object"] = (float(other.flat[strongest]), 1.0)
        yield PointedObject(f"{scene.seed}/{language}/{item.kind.key}", str(scene.seed), statistics)


def patches_of(item: SceneItem, scene: Scene, side: int) -> np.ndarray:
    """Return which patches [side, side] have their centre in the object's box; at least the one at its centre."""
    (x, y), (half_width, half_height) = extent(item, side, side, scene)
    centres = np.arange(side) + 0.5
    rows, columns = np.abs(centres - y) <= half_height, np.abs(centres - x) <= half_width
    rows[min(int(y), side - 1)] = columns[min(int(x), side - 1)] = True
    return rows[:, None] & columns
