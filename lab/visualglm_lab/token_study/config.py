"""Settings of the study, read from a TOML recipe, and its jobs.

A condition is how an image reaches the language model: `queries-N` (N outputs of a Q-Former), `patches` (all outputs of
the ViT through a linear layer) or `codes-N` (N codes of a VQ tokenizer, which are words of the vocabulary).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from visualglm.errors import UsageError
from visualglm.evaluation.encoded_scenes import TASKS
from visualglm.pretraining.config import Checkpoints, ModelSizes, RunConfig, Stage, fill_stage
from visualglm.training.toml_settings import fill_settings, nearest_word, read_table

from ..training.config import SceneStage, SceneTrainingConfig

STARTS = ("language", "vision", "tokenizer")
"""Stages that train what the runs of the other stages start from."""
STAGES = (*STARTS, "reading", "drawing")
COUNTED = ("queries", "codes")
"""Encoders whose number of tokens is part of a condition's name."""
MODEL = Path("model")


@dataclass(frozen=True)
class Condition:
    """How an image reaches the language model; `tokens` is the number of tokens that it takes."""

    encoder: str
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.encoder}-{self.tokens}" if self.encoder in COUNTED else self.encoder

    @property
    def with_vit(self) -> bool:
        """True if the image passes the ViT, False if a VQ tokenizer encodes it."""
        return self.encoder != "codes"


@dataclass(frozen=True)
class Job:
    """One training run with its measurement; `condition` is None for the language model and the ViT of all runs."""

    stage: str
    condition: Condition | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        seed = [str(self.seed)] if self.stage in ("reading", "drawing") else []
        return "-".join([self.stage, *([self.condition.name] if self.condition else []), *seed])


@dataclass(frozen=True)
class StudyConfig:
    """Settings of the study.

    Attributes:
        output: folder of the runs; what is finished there is not run again.
        results: JSON file to write.
        vocabulary: SentencePiece model; the codes follow its pieces.
        conditions: names of the conditions.
        seeds: seeds of the initial weights and of the order of the scenes, one reading run each.
        drawing_seeds: the same for the drawing runs.
        tasks: tasks that are asked in training and test.
        most: maximum number of objects in a scene.
        questions: questions per image in training.
        codebook: number of codes of a tokenizer.
        channels: width of the tokenizers.
        test_scenes: number of test scenes that the reading models are asked about.
        judged_scenes: number of test scenes whose reconstructions and drawings the packed model is asked about.
        processes: runs at the same time, one thread each; 1 runs them in this process.
        model: sizes of the networks; vocabulary and queries follow from the conditions.
    """

    output: str
    results: str
    vocabulary: str
    conditions: list[str]
    seeds: list[int]
    drawing_seeds: list[int]
    tasks: list[str]
    most: int = 3
    questions: int = 2
    codebook: int = 512
    channels: int = 64
    test_scenes: int = 300
    judged_scenes: int = 64
    processes: int = 2
    save_minutes: float = 3.0
    model: ModelSizes = field(default_factory=ModelSizes)
    language: Stage = field(kw_only=True)
    vision: SceneStage = field(kw_only=True)
    tokenizer: Stage = field(kw_only=True)
    reading: Stage = field(kw_only=True)
    drawing: Stage = field(kw_only=True)

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.model.image_size // self.model.patch_size) ** 2

    def parse_conditions(self) -> list[Condition]:
        """Read the names of the conditions.

        Raises:
            UsageError: a name is no condition, or a number of codes is no square that divides the image.
        """
        return [self._condition(name) for name in self.conditions]

    def _condition(self, name: str) -> Condition:
        encoder, _, tokens = name.partition("-")
        if name in ("patches", "patch-codes"):
            return Condition(name, self.patches + (name == "patches"))
        if encoder not in COUNTED or not tokens.isdecimal() or not int(tokens):
            raise UsageError(f"{name} is not a condition. Write queries-N, patches, patch-codes or codes-N.")
        condition = Condition(encoder, int(tokens))
        side = math.isqrt(condition.tokens)
        stride = self.model.image_size // side
        fits = side * side == condition.tokens and side * stride == self.model.image_size and stride.bit_count() == 1
        if encoder == "codes" and not (fits and stride > 1):
            raise UsageError(
                f"{name} does not fit images of {self.model.image_size} pixels. Give the square of a number by which "
                "the size is 2, 4, 8, 16 or another power of two times."
            )
        return condition

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs in an order in which each comes after those that it starts from."""
        codes = [condition for condition in self.parse_conditions() if condition.encoder == "codes"]
        yield from (Job("language"), Job("vision"))
        yield from (Job("tokenizer", condition) for condition in codes)
        ordered = sorted(
            self.parse_conditions(), key=lambda condition: -condition.tokens
        )  # the longest first, for an even end
        yield from (Job("reading", condition, seed) for condition in ordered for seed in self.seeds)
        yield from (Job("drawing", condition, seed) for condition in codes for seed in self.drawing_seeds)

    def folder(self, job: Job) -> Path:
        """Return the folder of a job's run."""
        return Path(self.output) / job.name

    def run_config(self, job: Job) -> RunConfig:
        """Build the settings of a job's training run."""
        stage: Stage = getattr(self, job.stage)
        run = RunConfig(
            str(self.folder(job)),
            self.vocabulary,
            seed=job.seed,
            threads=1,
            workers=0,
            save_minutes=self.save_minutes,
            model=self.sizes(job.condition),
            stages=(stage,),
        )
        if job.stage in STARTS:
            return run
        vision = str(self.folder(Job("vision")) / MODEL) if job.condition and job.condition.with_vit else ""
        return replace(run, start=Checkpoints(language=str(self.folder(Job("language")) / MODEL), vision=vision))

    def scene_config(self, job: Job) -> SceneTrainingConfig:
        """Build the settings of the run that trains the language model on described scenes, or the ViT on labels."""
        text = SceneStage(**{**vars(self.language), "kind": "text"}, most=self.most)
        stage = text if job.stage == "language" else self.vision
        return SceneTrainingConfig(**{**vars(self.run_config(job)), "stages": (stage,)})

    def sizes(self, condition: Condition | None) -> ModelSizes:
        """Return the sizes of a condition's networks."""
        return replace(self.model, queries=condition.tokens) if condition else self.model

    @property
    def patch_blocks(self) -> int:
        """Number of ViT blocks that `patches` trains in place of the Q-Former.

        4 of them have as many weights as 3 layers of a Q-Former of the same width (12 and 16 hidden**2 each).
        """
        return 4 * self.model.qformer_layers // 3


def read_study_config(path: str | Path, changes: tuple[str, ...] = ()) -> StudyConfig:
    """Read and check a recipe; `changes` are `key=value` (values as in TOML), such as `seeds=[0]`.

    Raises:
        UsageError: the file does not exist or is not TOML, a key is unknown or missing, or a value does not fit.
    """
    table = read_table(path, changes)
    parts: dict[str, Any] = {"model": fill_settings(ModelSizes, table.get("model", {}), "model")}
    for name in STAGES:
        given, kind = table.get(name, {}), "patches" if name == "vision" else name
        named = {"name": name, "kind": kind, **given} if isinstance(given, dict) else given
        parts[name] = fill_stage(SceneStage if name == "vision" else Stage, named, (kind,))
    plan = fill_settings(StudyConfig, {**table, **parts}, "the recipe")
    _check_lists(plan)
    unknown = next((task for task in plan.tasks if task not in TASKS), None)
    if unknown is not None:
        raise UsageError(f"{unknown} in tasks is not a task. Did you mean {nearest_word(unknown, TASKS)}?")
    plan.parse_conditions()
    return plan


def _check_lists(plan: StudyConfig) -> None:
    """Raise `UsageError` unless the lists hold what they should, and at least one of each; drawing may be left out."""
    for name, kind, word in (
        ("conditions", str, "texts"),
        ("tasks", str, "texts"),
        ("seeds", int, "whole numbers"),
        ("drawing_seeds", int, "whole numbers"),
    ):
        given = getattr(plan, name)
        fits = isinstance(given, list) and all(type(one) is kind for one in given)
        if not fits or not (given or name == "drawing_seeds"):
            raise UsageError(f"{name} in the recipe is {given!r}. Give a list of {word}.")
