"""A TOML file -> typed settings of a training run; unknown keys are errors.

Knows nothing about how the stages are run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..evaluation.scenes.questions import TASKS
from ..evaluation.scenes.scene import SceneMix
from ..training.toml_settings import fill_settings, nearest_word, read_table

MOST_BYTES = 1 << 20
MOST_STAGES = 10  # each has seeds set aside
KINDS = ("text", "patches", "zones", "representation", "alignment", "answers", "dialogue")


@dataclass(frozen=True)
class ModelSizes:
    """The three networks; heads have 64 channels each.

    `tie_word_embeddings`: one table for reading and for writing words. Names of a thousand things are rare words, and a
    picture's vector that was drawn to the word for it can then be said as it is.
    """

    image_size: int = 144
    patch_size: int = 16
    vision_layers: int = 6
    vision_hidden: int = 256
    qformer_layers: int = 3
    qformer_hidden: int = 256
    queries: int = 16
    layers: int = 4
    hidden: int = 256
    vocab_size: int = 7424
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True


@dataclass(frozen=True)
class Checkpoints:
    """Folders of any checkpoint format from which a part begins instead of from noise; empty: from noise.

    `model` gives the architecture too; `vision`, `qformer` and `language` then replace its parts.
    """

    model: str = ""
    vision: str = ""
    qformer: str = ""
    language: str = ""


@dataclass(frozen=True)
class Stage:
    """One stage; `kind` says what is learned and by which part.

    `text`: the language model, from dialogues without pictures. `patches`: the ViT, what covers every patch. `zones`:
    ViT and Q-Former, what stands in every ninth of the picture. `representation`: the Q-Former, BLIP-2's contrast,
    matching and captioning. `alignment`: Q-Former and projection, to the frozen language model. `answers`: the language
    model, to answer about pictures that the frozen encoder reads. `dialogue`: all, to answer.

    A stage ends after `minutes` of wall-clock or, where given, after `steps`; the cosine spans it, down to `final_rate`
    of the learning rate. The picture encoder learns at `encoder_rate` of it. Scenes hold `least` to `most` objects; the
    first `on_white` batches have a white ground; `mix` is what they are made of. After `compare_after` batches two
    heads begin to compare words with pictures (0: never), after `zones_after` every zone's vector says which zone it
    is. `asked` says for tasks how often they come up, beside the rest (`batches.WEIGHTS`); the words of an answer that
    state the fact weigh `fact_weight` times as much as others. `teacher_loss` weighs how well the features of a teacher
    (the album's `features.npy`) are foretold for what is pasted.
    """

    name: str
    kind: str
    minutes: float = 0.0
    steps: int = 0
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
class PretrainingConfig:
    """A whole run. Paths are relative to the working directory.

    `album` is a folder of pictures to paste into scenes (empty: drawn things only). `captions` is a JSON-lines file
    that replaces the scenes by your own pictures. `sharding` is for several processes: `ddp` or `fsdp`.
    """

    output: str
    vocabulary: str
    album: str = ""
    captions: str = ""
    seed: int = 0
    threads: int = 2
    workers: int = 1
    bfloat16: bool = True
    gradient_checkpointing: bool = False
    sharding: str = "ddp"
    save_minutes: float = 3.0
    model: ModelSizes = field(default_factory=ModelSizes)
    start: Checkpoints = field(default_factory=Checkpoints)
    stages: tuple[Stage, ...] = ()


def read_pretraining_config(path: str | Path, changes: tuple[str, ...] = ()) -> PretrainingConfig:
    """Reads and checks a recipe; `changes` are `key=value` (values as in TOML), such as `seed=3`.

    Raises:
        UsageError: no such file, no TOML, an unknown key (the nearest known one is named) or a missing one.
    """
    table = read_table(path, changes)
    table["model"] = fill_settings(ModelSizes, table.get("model", {}), "model")
    table["start"] = fill_settings(Checkpoints, table.get("start", {}), "start")
    stages = table.get("stages", [])
    table["stages"] = tuple(_stage(stage) for stage in (stages if isinstance(stages, list) else [stages]))
    recipe = fill_settings(PretrainingConfig, table, "the recipe")
    if not 0 < len(recipe.stages) <= MOST_STAGES:
        raise UsageError(f"{path} has {len(recipe.stages)} stages: give 1 to {MOST_STAGES}, each as [[stages]].")
    return recipe


def _stage(table: dict[str, Any]) -> Stage:
    mix = fill_settings(SceneMix, table.get("mix", {}) if isinstance(table, dict) else {}, "mix")
    stage = fill_settings(Stage, {**table, "mix": mix} if isinstance(table, dict) else table, "stages")
    if stage.kind not in KINDS:
        raise UsageError(f"{stage.kind} is no kind of stage; did you mean {nearest_word(stage.kind, KINDS)}?")
    _check_asked(stage.asked)
    if not (stage.minutes or stage.steps):
        raise UsageError(f"stage {stage.name} has no end: give minutes or steps.")
    return stage


def _check_asked(asked: dict[str, float]) -> None:
    for task, weight in asked.items():
        if task not in TASKS:
            raise UsageError(f"{task} in asked is no task; did you mean {nearest_word(task, TASKS)}?")
        if not isinstance(weight, (int, float)) or not weight >= 0:
            raise UsageError(f"{task} in asked is {weight!r}: give a number, 0 or more.")
