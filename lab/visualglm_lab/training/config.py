"""Settings of a training run on scenes, read from a TOML recipe.

Adds scenes and label losses to the settings of `visualglm.pretraining`. Unknown keys are errors.
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
    """One training stage; `kind` is one of the product's or of three more.

    `text` trains the language model on dialogues without images. `patches` trains the ViT to classify what covers
    each patch. `zones` trains ViT and Q-Former to classify what is in each ninth of the image.

    Attributes:
        rows: questions per scene.
        least: minimum number of objects, with `most` as maximum.
        on_white: number of first batches with a white background.
        mix: probabilities of the features of scenes.
        compare_after: step at which two heads are set to compare words with images (0: never).
        zones_after: step at which zone embeddings are set to encode their zone (0: never).
        asked: weights of tasks, which override `scene_batches.WEIGHTS`.
        named: fraction of scenes of a single object that are asked for its name in both languages.
        fact_weight: loss weight of the tokens that state the fact.
        teacher_loss: loss weight of predicting a teacher's features (the album's `features.npy`) of pasted images.
        prototypes: vectors sampled around the classes of the stem's classifier, as a fraction of `images`; each is
            asked about in both languages, in the place of an image's pooled features.
        prototype_loss: loss weight of their answers.
    """

    rows: int = 6
    patch_loss: float = 1.0
    zone_loss: float = 1.0
    word_loss: float = 0.3
    teacher_loss: float = 0.0
    compare_after: int = 0
    zones_after: int = 0
    asked: dict[str, float] = field(default_factory=dict)
    named: float = 0.0
    fact_weight: float = 1.0
    prototypes: float = 0.0
    prototype_loss: float = 1.0
    least: int = 1
    most: int = 4
    on_white: int = 0
    mix: SceneMix = field(default_factory=SceneMix)


@dataclass(frozen=True)
class SceneTrainingConfig(RunConfig):
    """Settings of a run on scenes; `album` is a folder of images to paste (empty: only drawn objects)."""

    stages: tuple[SceneStage, ...] = ()
    album: str = ""


def read_scene_config(path: str | Path, changes: tuple[str, ...] = ()) -> SceneTrainingConfig:
    """Read and check a recipe; `changes` are `key=value` (values as in TOML), such as `seed=3`.

    Raises:
        UsageError: the file does not exist or is not TOML, or a key is unknown or missing.
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
            raise UsageError(f"{task} in asked is not a task. Did you mean {nearest_word(task, TASKS)}?")
        if not isinstance(weight, (int, float)) or not weight >= 0:
            raise UsageError(f"{task} in asked is {weight!r}: give a number, 0 or more.")
