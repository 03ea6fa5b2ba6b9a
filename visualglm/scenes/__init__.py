"""scenes (a room): drawn pictures with known truth, for training and evaluation.

`compose.scene_of(seed)` is the truth, `paint.picture_of(scene)` the picture, `dialogue.exchanges(scene, ...)` what
one may ask about it and the right answers. Training, validation, test and the bundled samples never share a seed.
"""

from .compose import Item, Scene, scene_of
from .dialogue import exchanges
from .exchange import Exchange
from .labels import patch_labels, zone_labels
from .paint import picture_of
from .seeds import Split, seeds
from .vocabulary import BACKGROUNDS, COLOURS, KINDS, ZONES

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "KINDS",
    "ZONES",
    "Exchange",
    "Item",
    "Scene",
    "Split",
    "exchanges",
    "patch_labels",
    "picture_of",
    "scene_of",
    "seeds",
    "zone_labels",
]
