"""Settings of a pretraining run, read from a TOML recipe.

Unknown keys are errors that name the nearest known key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UsageError
from ..training.toml_settings import fill_settings, nearest_word, read_table

MAX_STAGES = 10  # rows are reserved for each stage (ROWS_PER_STAGE)
KINDS = ("representation", "alignment", "answers", "dialogue")
NO_CAPTIONS = (
    "A recipe of drawn scenes, without captions, runs by python -m visualglm_lab.training (see lab/README.md)."
)


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of the three networks; attention heads have 64 channels each.

    `tie_word_embeddings` shares the table between word embeddings and LM head. This helps with rare names: an image
    embedding that is close to a word's embedding then already has a high logit for that word.
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
    """Checkpoint folders (of any format) with initial weights; an empty path means random weights.

    `model` also sets the architecture; `vision`, `qformer` and `language` then replace its parts.
    """

    model: str = ""
    vision: str = ""
    qformer: str = ""
    language: str = ""


@dataclass(frozen=True)
class Stage:
    """One training stage; `kind` sets the losses and the trained parts.

    Kinds: `representation` trains the Q-Former with BLIP-2's contrastive, matching and captioning losses. `alignment`
    trains Q-Former and projection for the frozen language model. `answers` trains the language model with a frozen
    image encoder. `dialogue` trains all parts.

    A stage ends after `minutes` of wall-clock time or, if given, after `steps`. The learning rate follows a cosine over
    the stage, down to `final_rate` times its maximum. The image encoder's rate is multiplied by `encoder_rate`.
    `images` is the number of images per batch.
    """

    name: str
    kind: str
    minutes: float = 0.0
    steps: int = 0
    images: int = 32
    learning_rate: float = 1e-3
    encoder_rate: float = 1.0
    final_rate: float = 0.02
    warmup: float = 0.02
    weight_decay: float = 0.05


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run except its data. Paths are relative to the working directory.

    `sharding` is used with several processes: `ddp` or `fsdp`.
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
        """Describe each stage in one line: name, kind, length, batch size."""
        lengths = [f"{stage.steps} steps" if stage.steps else f"{stage.minutes:g} minutes" for stage in self.stages]
        return [
            f"{stage.name}: {stage.kind}, {length}, {stage.images} images per batch"
            for stage, length in zip(self.stages, lengths, strict=True)
        ]


@dataclass(frozen=True)
class PretrainingConfig(RunConfig):
    """Settings of a run on your own images; `captions` is a JSON-lines file of image-text pairs."""

    captions: str = field(kw_only=True)


R = TypeVar("R", bound=RunConfig)
S = TypeVar("S", bound=Stage)


def read_pretraining_config(path: str | Path, changes: tuple[str, ...] = ()) -> PretrainingConfig:
    """Read and check a recipe; `changes` are `key=value` (values as in TOML), such as `seed=3`.

    Raises:
        UsageError: the file does not exist or is not TOML, or a key is unknown or missing.
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
    """Build a run's settings from the table of the recipe at `path`; `read_stage` builds one stage.

    Raises:
        UsageError: a key is unknown or missing, a value has another type, or the number of stages is not allowed.
    """
    stages = table.get("stages", [])
    parts = {
        "model": fill_settings(ModelSizes, table.get("model", {}), "model"),
        "start": fill_settings(Checkpoints, table.get("start", {}), "start"),
        "stages": tuple(read_stage(stage) for stage in (stages if isinstance(stages, list) else [stages])),
    }
    recipe = fill_settings(kind, {**table, **parts}, "the recipe")
    if not 0 < len(recipe.stages) <= MAX_STAGES:
        raise UsageError(f"{path} has {len(recipe.stages)} stages. Give 1 to {MAX_STAGES}, each as [[stages]].")
    return recipe


def fill_stage(kind: type[S], table: dict[str, Any], kinds: tuple[str, ...]) -> S:
    """Build a stage's settings; `kinds` lists the allowed kinds of stage.

    Raises:
        UsageError: a key or kind is unknown (the message names the nearest one), or the stage has no length.
    """
    stage = fill_settings(kind, table, "stages")
    if stage.kind not in kinds:
        raise UsageError(f"Unknown kind of stage {stage.kind}. Did you mean {nearest_word(stage.kind, kinds)}?")
    if not (stage.minutes or stage.steps):
        raise UsageError(f"Stage {stage.name} has no length. Give minutes or steps.")
    return stage
