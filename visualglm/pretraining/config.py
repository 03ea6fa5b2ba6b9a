"""A TOML file -> typed settings of a training run; unknown keys are errors.

Knows nothing about how the stages are run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UsageError
from ..training.toml_settings import fill_settings, nearest_word, read_table

MOST_STAGES = 10  # each has rows set aside
KINDS = ("representation", "alignment", "answers", "dialogue")
NO_CAPTIONS = (
    "A recipe of drawn scenes, without captions, runs by python -m visualglm_lab.training (see lab/README.md)."
)


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

    `representation`: the Q-Former, BLIP-2's contrast, matching and captioning. `alignment`: Q-Former and projection, to
    the frozen language model. `answers`: the language model, to answer about pictures that the frozen encoder reads.
    `dialogue`: all, to answer.

    A stage ends after `minutes` of wall-clock or, where given, after `steps`; the cosine spans it, down to `final_rate`
    of the learning rate. The picture encoder learns at `encoder_rate` of it.
    """

    name: str
    kind: str
    minutes: float = 0.0
    steps: int = 0
    pictures: int = 32
    learning_rate: float = 1e-3
    encoder_rate: float = 1.0
    final_rate: float = 0.02
    warmup: float = 0.02
    weight_decay: float = 0.05


@dataclass(frozen=True)
class RunConfig:
    """A whole run, but for its data. Paths are relative to the working directory.

    `sharding` is for several processes: `ddp` or `fsdp`.
    """

    output: str
    vocabulary: str
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

    def summary(self) -> list[str]:
        """One line a stage: its name, kind and length."""
        lengths = [f"{stage.steps} steps" if stage.steps else f"{stage.minutes:g} minutes" for stage in self.stages]
        return [
            f"{stage.name}: {stage.kind}, {length}, {stage.pictures} pictures a batch"
            for stage, length in zip(self.stages, lengths, strict=True)
        ]


@dataclass(frozen=True)
class PretrainingConfig(RunConfig):
    """A run on your own pictures; `captions` is a JSON-lines file of them."""

    captions: str = field(kw_only=True)


R = TypeVar("R", bound=RunConfig)
S = TypeVar("S", bound=Stage)


def read_pretraining_config(path: str | Path, changes: tuple[str, ...] = ()) -> PretrainingConfig:
    """Reads and checks a recipe; `changes` are `key=value` (values as in TOML), such as `seed=3`.

    Raises:
        UsageError: no such file, no TOML, an unknown key (the nearest known one is named) or a missing one.
    """
    table = read_table(path, changes)
    try:
        return fill_run_config(PretrainingConfig, table, path, lambda stage: fill_stage(Stage, stage, KINDS))
    except UsageError as error:
        if "captions" in table:
            raise
        raise UsageError(f"{error} {NO_CAPTIONS}") from error


def fill_run_config(
    kind: type[R], table: dict[str, Any], path: str | Path, read_stage: Callable[[dict[str, Any]], Stage]
) -> R:
    """A run's settings from the table of the recipe at `path`; `read_stage` reads one stage's table.

    Raises:
        UsageError: an unknown key, a missing one, a value of another type, or no stage or too many.
    """
    stages = table.get("stages", [])
    parts = {
        "model": fill_settings(ModelSizes, table.get("model", {}), "model"),
        "start": fill_settings(Checkpoints, table.get("start", {}), "start"),
        "stages": tuple(read_stage(stage) for stage in (stages if isinstance(stages, list) else [stages])),
    }
    recipe = fill_settings(kind, {**table, **parts}, "the recipe")
    if not 0 < len(recipe.stages) <= MOST_STAGES:
        raise UsageError(f"{path} has {len(recipe.stages)} stages: give 1 to {MOST_STAGES}, each as [[stages]].")
    return recipe


def fill_stage(kind: type[S], table: dict[str, Any], kinds: tuple[str, ...]) -> S:
    """A stage's settings; `kinds` are the kinds of stage that there are.

    Raises:
        UsageError: an unknown key or kind (the nearest known one is named), or no end.
    """
    stage = fill_settings(kind, table, "stages")
    if stage.kind not in kinds:
        raise UsageError(f"{stage.kind} is no kind of stage; did you mean {nearest_word(stage.kind, kinds)}?")
    if not (stage.minutes or stage.steps):
        raise UsageError(f"stage {stage.name} has no end: give minutes or steps.")
    return stage
