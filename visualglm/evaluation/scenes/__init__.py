"""Drawn pictures with known truth, for training and evaluation.

`scene.scene_of(seed)` is the truth, `render.render_scene(scene)` the picture, `questions.exchanges(scene, ...)` what
one may ask about it and the right answers. Training, validation, test and the bundled samples never share a seed.
"""

from .kinds import BACKGROUNDS, COLOURS, KINDS, ZONES
from .qa_pair import QAPair
from .questions import exchanges
from .render import render_scene
from .scene import Scene, SceneItem, scene_of
from .split_seeds import Split, seeds

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "KINDS",
    "ZONES",
    "QAPair",
    "Scene",
    "SceneItem",
    "Split",
    "exchanges",
    "render_scene",
    "scene_of",
    "seeds",
]
