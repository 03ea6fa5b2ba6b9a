"""A TOML file -> typed settings of a training run on scenes; unknown keys are errors.

Adds to the settings of `visualglm.pretraining` what scenes are made of and what their labels teach. Knows nothing about
how the stages are run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visualglm.errors import UsageError
from visualglm.evaluation.scenes.questions import TASKS
from visualglm.evaluation.scenes.scene import SceneMix
from visualglm.pretraining.config import RunConfig, Stage, fill_run_config, fill_stage
from visualglm.training.toml_settings import fill_settings, nearest_word, read_table

KINDS = ("text", "patches", "zones", "representation", "alignment", "answers", "dialogue")


@dataclass(frozen=True)
class SceneStage(Stage):
    """One stage; `kind` is one of the product's or of three more.

    `text`: the language model, from dialogues without pictures. `patches`: the ViT, what covers every patch. `zones`:
    ViT and Q-Former, what stands in every ninth of the picture.

    Scenes hold `least` to `most` objects; the first `on_white` batches have a white ground; `mix` is what they are made
    of; `rows` questions are asked about each. After `compare_after` batches two heads begin to compare words with
    pictures (0: never), after `zones_after` every zone's vector says which zone it is. `asked` says for tasks how often
    they come up, beside the rest (`scene_batches.WEIGHTS`); the words of an answer that state the fact weigh
    `fact_weight` times as much as others. `teacher_loss` weighs how well the features of a teacher (the album's
    `features.npy`) are foretold for what is pasted.
    """

    rows: int = 6
    patch_loss: float = 1.0
    zone_loss: float = 1.0
    word_loss: float = 0.3
    teacher_loss: float = 0.0
    compare_after: int = 0
    zones_after: int = 0
    asked: dict[str, float] = field(default_factory=dict)
    fact_weight: float = 1.0
    least: int = 1
    most: int = 4
    on_white: int = 0
    mix: SceneMix = field(default_factory=SceneMix)


@dataclass(frozen=True)
class SceneTrainingConfig(RunConfig):
    """A run on scenes; `album` is a folder of pictures to paste into them (empty: drawn things only)."""

    stages: tuple[SceneStage, ...] = ()
    album: str = ""


def read_scene_config(path: str | Path, changes: tuple[str, ...] = ()) -> SceneTrainingConfig:
    """Reads and checks a recipe; `changes` are `key=value` (values as in TOML), such as `seed=3`.

    Raises:
        UsageError: no such file, no TOML, an unknown key (the nearest known one is named) or a missing one.
    """
    return fill_run_config(SceneTrainingConfig, read_table(path, changes), path, _stage)


def _stage(table: dict[str, Any]) -> SceneStage:
    mix = fill_settings(SceneMix, table.get("mix", {}) if isinstance(table, dict) else {}, "mix")
    stage = fill_stage(SceneStage, {**table, "mix": mix} if isinstance(table, dict) else table, KINDS)
    _check_asked(stage.asked)
    return stage


def _check_asked(asked: dict[str, float]) -> None:
    for task, weight in asked.items():
        if task not in TASKS:
            raise UsageError(f"{task} in asked is no task; did you mean {nearest_word(task, TASKS)}?")
        if not isinstance(weight, (int, float)) or not weight >= 0:
            raise UsageError(f"{task} in asked is {weight!r}: give a number, 0 or more.")
