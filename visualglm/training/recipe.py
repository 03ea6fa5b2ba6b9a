"""training/recipe: a TOML file -> typed settings of a training run; unknown keys are errors.

Knows nothing about how the stages are run.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class ModelSizes:
    """The three networks; heads have 64 channels each."""

    image_size: int = 112
    patch_size: int = 14
    vision_layers: int = 5
    vision_hidden: int = 192
    qformer_layers: int = 3
    qformer_hidden: int = 192
    queries: int = 16
    layers: int = 3
    hidden: int = 256
    vocab_size: int = 2304
    initializer_range: float = 0.02


@dataclass(frozen=True)
class Stage:
    """One stage: `patches` (ViT), `zones` (ViT and Q-Former), `dialogue` (everything, to answer).

    Scenes hold `least` to `most` objects; the first `on_white` batches have a white ground. `minutes` is the wall-clock
    that the cosine spans, down to `final_rate` of the learning rate; the picture encoder learns at
    `encoder_rate` of it. After `compare_after` batches two heads begin to compare words with pictures (0: never).
    """

    name: str
    kind: str
    minutes: float
    pictures: int = 32
    rows: int = 6
    learning_rate: float = 1e-3
    encoder_rate: float = 1.0
    final_rate: float = 0.02
    warmup: float = 0.02
    weight_decay: float = 0.05
    patch_loss: float = 1.0
    zone_loss: float = 1.0
    word_loss: float = 0.3
    compare_after: int = 0
    least: int = 1
    most: int = 4
    on_white: int = 0


@dataclass(frozen=True)
class Recipe:
    """A whole run. Paths are relative to the working directory."""

    output: str
    vocabulary: str
    seed: int = 0
    threads: int = 2
    bfloat16: bool = True
    save_minutes: float = 3.0
    model: ModelSizes = field(default_factory=ModelSizes)
    stages: tuple[Stage, ...] = ()


def read_recipe(path: str | Path) -> Recipe:
    """Reads and checks a recipe.

    Raises:
        UsageError: an unknown key (the nearest known one is named) or a missing one.
    """
    table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    table["model"] = _filled(ModelSizes, table.get("model", {}), "model")
    table["stages"] = tuple(_filled(Stage, stage, "stages") for stage in table.get("stages", []))
    return _filled(Recipe, table, "the recipe")


def _filled(kind: type[T], table: dict[str, Any], place: str) -> T:
    known = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise UsageError(f"{key} in {place} is not a setting; did you mean {nearest}?")
    try:
        return kind(**table)
    except TypeError as error:
        raise UsageError(f"{place} is incomplete: {error}.") from error
