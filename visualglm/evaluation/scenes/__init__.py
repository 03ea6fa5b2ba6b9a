"""Drawn images with known content, for training and evaluation.

`scene.scene_of(seed)` generates a scene, `render.render_scene(scene)` its image, and `questions.exchanges(scene, ...)`
questions about it with the right answers. Training, validation, test and the bundled samples never share a seed.
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
