"""A TOML file, or flags, -> typed settings of one fine-tuning run; unknown keys are errors.

Knows nothing about how they are carried out.
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..training.toml_settings import fill_settings, nearest_word, read_table

METHODS = ("lora", "qlora", "ptuning", "full")
TRAIN_MODES = ("frozen", "lora", "full")
SHARDINGS = ("ddp", "fsdp")
DTYPES = ("auto", "float32", "bfloat16", "float16")
LEARNING_RATES = {"lora": 1e-3, "qlora": 1e-3, "ptuning": 1e-2, "full": 5e-5}
LANGUAGE = {"lora": "lora", "qlora": "lora", "ptuning": "prefix", "full": "full"}
"""How each method trains the language model unless told otherwise; the picture's road is frozen."""
POSITIVE_SETTINGS = (
    *("epochs", "batch", "accumulate", "keep", "max_new_tokens"),
    *("lora.rank", "lora.alpha", "ptuning.tokens"),
)
NON_NEGATIVE_SETTINGS = (
    *("learning_rate", "weight_decay", "gradient_norm", "max_tokens", "workers", "seed"),
    *("save_steps", "early_stop", "answers", "ptuning.width"),
)
FRACTION_SETTINGS = ("validation_share", "warmup", "lora.dropout")
SEEDS = 2**32
"""NumPy's, which are seeded too."""


@dataclass(frozen=True)
class TrainedModules:
    """How each network trains: `frozen`, `lora` or `full`. `language` empty: as the method has it."""

    language: str = ""
    qformer: str = "frozen"
    projection: str = "frozen"
    vision: str = "frozen"

    @property
    def picture_trains(self) -> bool:
        """Whether anything on the picture's way to the language model does."""
        return {self.qformer, self.projection, self.vision} != {"frozen"}


@dataclass(frozen=True)
class Lora:
    """`targets` are linear layers of every block of the language model; `layers` its blocks, such as `0-13,27` (empty:
    all). Of the Q-Former and the ViT, all linear layers are adapted. `alpha / rank` scales what is added."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    dora: bool = False
    targets: tuple[str, ...] = ("attention.query_key_value", "attention.dense")
    layers: str = ""


@dataclass(frozen=True)
class PTuning:
    """`tokens` virtual tokens in front of every block's keys; with `reparameterise` a network of `width` (0: the
    model's) makes them while training."""

    tokens: int = 32
    reparameterise: bool = False
    width: int = 0


@dataclass(frozen=True)
class Finetuning:
    """One run. Paths are relative to the working directory; 0 or an empty text means: choose.

    `data` and `validation` are files (see `rows`); without `validation`, `validation_share` of the rows is held out.
    A step learns from `batch * accumulate` answers (and as many per further process). The rate rises over `warmup` of
    the steps and falls to nothing as a cosine. Every `save_steps` (0: each epoch) the run is saved and validated, the
    newest `keep` checkpoints stay, and after `early_stop` validations without a better one it ends (0: never).
    `dtype` is what frozen weights are held and passes computed in; what trains is held in float32. `max_tokens` is the
    longest row (0: the model's). `answers` held-out rows are answered before and after, and shown in the report.
    `workers` processes decode pictures beside the training (0: itself). Of several processes (torchrun), each holds the
    whole model where `sharding` is `ddp`, and with `fsdp`, which is for method full, a part of it.
    """

    data: str
    output: str
    model: str = ""
    tokenizer: str = ""
    method: str = "lora"
    validation: str = ""
    validation_share: float = 0.1
    language: str = "auto"
    skip_bad: bool = False
    epochs: float = 3.0
    batch: int = 8
    accumulate: int = 1
    learning_rate: float = 0.0
    warmup: float = 0.05
    weight_decay: float = 0.0
    gradient_norm: float = 1.0
    dtype: str = "auto"
    gradient_checkpointing: bool = False
    cache_features: bool = True
    max_tokens: int = 0
    workers: int = 0
    sharding: str = "ddp"
    seed: int = 0
    save_steps: int = 0
    keep: int = 2
    early_stop: int = 0
    answers: int = 24
    max_new_tokens: int = 64
    tensorboard: bool = False
    parts: TrainedModules = field(default_factory=TrainedModules)
    lora: Lora = field(default_factory=Lora)
    ptuning: PTuning = field(default_factory=PTuning)

    @property
    def caches(self) -> bool:
        """Whether each picture is encoded once; not where anything that encodes it trains."""
        return self.cache_features and not self.parts.picture_trains

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return self.learning_rate or LEARNING_RATES[self.method]


def read_finetuning(path: str | Path | None, changes: tuple[str, ...] = (), **given: Any) -> Finetuning:
    """A recipe (or none), then `changes` (`key=value`, as in TOML), then what was `given` as flags.

    Raises:
        UsageError: an unknown, missing or impossible setting.
    """
    table = {**read_table(path, changes), **{key: value for key, value in given.items() if value is not None}}
    lora = table.get("lora", {})
    if isinstance(lora, dict) and isinstance(lora.get("targets"), list):
        lora = {**lora, "targets": tuple(lora["targets"])}
    table["parts"] = fill_settings(TrainedModules, table.get("parts", {}), "parts")
    table["lora"] = fill_settings(Lora, lora, "lora")
    table["ptuning"] = fill_settings(PTuning, table.get("ptuning", {}), "ptuning")
    for needed in ("data", "output"):
        if not table.get(needed):
            raise UsageError(f"{needed} is not set: give --{needed}, or a recipe that has it.")
    return checked(fill_settings(Finetuning, table, "the recipe"))


def checked(recipe: Finetuning) -> Finetuning:
    """The recipe with the language model's way filled in.

    Raises:
        UsageError: its settings contradict each other.
    """
    _one_of("method", recipe.method, METHODS)
    _one_of("dtype", recipe.dtype, DTYPES)
    _one_of("sharding", recipe.sharding, SHARDINGS)
    _one_of("language", recipe.language, ("auto", "zh", "en"))
    parts = replace(recipe.parts, language=recipe.parts.language or LANGUAGE[recipe.method])
    for part, way in vars(parts).items():
        if (part, way, recipe.method) != ("language", "prefix", "ptuning"):
            _one_of(f"parts.{part}", way, TRAIN_MODES)
    _check_ways(recipe.method, vars(parts))
    if recipe.sharding == "fsdp" and recipe.method != "full":
        raise UsageError(
            f"sharding fsdp is for method full; of {recipe.method} little trains: leave sharding out (ddp)."
        )
    _check_numbers(recipe)
    _check_targets(recipe.lora.targets)
    return replace(recipe, parts=parts)


def _check_ways(method: str, ways: dict[str, str]) -> None:
    chosen = set(ways.values())
    if method == "full" and ("lora" in chosen or "full" not in chosen):
        raise UsageError("method full trains whole parts: set each of parts to full or frozen, one at least to full.")
    if method in ("lora", "qlora") and ("lora" not in chosen or ways["language"] == "full"):
        raise UsageError(
            f"method {method} adapts at least one part by lora, and the language model by lora or not at all: set "
            'parts so, or method = "full".'
        )
    if method == "ptuning" and (ways["language"] != "prefix" or chosen != {"prefix", "frozen"}):
        raise UsageError("method ptuning trains a prefix of the language model and nothing else: leave parts out.")


def _check_numbers(recipe: Finetuning) -> None:
    for name, value in _values(recipe, POSITIVE_SETTINGS).items():
        if not 0 < value < math.inf:
            raise UsageError(f"{name} is {value}: give a number above 0.")
    for name, value in _values(recipe, NON_NEGATIVE_SETTINGS).items():
        if not 0 <= value < math.inf:
            raise UsageError(f"{name} is {value}: give 0 or a number above it.")
    for name, value in _values(recipe, FRACTION_SETTINGS).items():
        if not 0 <= value < 1:
            raise UsageError(f"{name} is {value}: it is a share, so give 0 or more and less than 1.")
    if recipe.seed >= SEEDS:
        raise UsageError(f"seed is {recipe.seed}: give a number below {SEEDS}.")


def _values(recipe: Finetuning, names: tuple[str, ...]) -> dict[str, float]:
    return {name: operator.attrgetter(name)(recipe) for name in names}


def _check_targets(targets: Any) -> None:
    """Raises `UsageError` unless they are names, one at least."""
    if not isinstance(targets, tuple) or not targets or not all(isinstance(target, str) for target in targets):
        given = list(targets) if isinstance(targets, tuple) else targets
        raise UsageError(f"lora.targets is {given!r}: give a list of linear layers, e.g. ['attention.dense'].")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        like = nearest_word(value, known)
        raise UsageError(f"{name} is {value!r}: choose from {', '.join(known)}; did you mean {like}?")


def layer_numbers(text: str, count: int) -> list[int]:
    """`0-13,27` -> the numbers, ranges inclusive; empty: all `count` of them.

    Raises:
        UsageError: it is no list of ranges, or names a block that is not there.
    """
    if not text:
        return list(range(count))
    numbers: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", piece)
        if match is None:
            raise UsageError(f"lora.layers is {text!r}: write blocks and ranges, e.g. 0-13,27.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise UsageError(f"lora.layers is {text!r}, but the model's blocks are 0 to {count - 1}.")
        numbers |= set(range(first, last + 1))
    return sorted(numbers)
