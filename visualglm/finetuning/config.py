"""Typed settings of a fine-tuning run, read from TOML and flags; unknown keys are errors."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..hub.local_folder import default_model
from ..training.toml_settings import fill_settings, nearest_word, read_table

METHODS = ("lora", "qlora", "ptuning", "full")
TRAIN_MODES = ("frozen", "lora", "full")
SHARDINGS = ("ddp", "fsdp")
DTYPES = ("auto", "float32", "bfloat16", "float16")
LEARNING_RATES = {"lora": 1e-3, "qlora": 1e-3, "ptuning": 1e-2, "full": 5e-5}
LANGUAGE = {"lora": "lora", "qlora": "lora", "ptuning": "prefix", "full": "full"}
"""Method -> how it trains the language model by default; the vision-side modules are frozen by default."""
POSITIVE_SETTINGS = (
    *("epochs", "batch", "accumulate", "keep", "max_new_tokens"),
    *("lora.rank", "lora.alpha", "ptuning.tokens"),
)
NON_NEGATIVE_SETTINGS = (
    *("learning_rate", "weight_decay", "gradient_norm", "max_tokens", "workers", "seed"),
    *("save_steps", "early_stop", "answers", "forgetting", "ptuning.width"),
)
FRACTION_SETTINGS = ("validation_share", "warmup", "lora.dropout")
SEEDS = 2**32
"""Number of seeds that NumPy accepts; it is seeded too."""


@dataclass(frozen=True)
class TrainedModules:
    """How each network trains: `frozen`, `lora` or `full`. An empty `language` takes the default of the method."""

    language: str = ""
    qformer: str = "frozen"
    projection: str = "frozen"
    vision: str = "frozen"

    @property
    def image_trains(self) -> bool:
        """True if any vision-side module trains."""
        return {self.qformer, self.projection, self.vision} != {"frozen"}


@dataclass(frozen=True)
class Lora:
    """Settings of LoRA.

    `targets` are linear layers in each block of the language model; `layers` selects blocks, such as `0-13,27` (empty:
    all). In the Q-Former and the vision encoder all linear layers are adapted. `alpha / rank` scales the update.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    dora: bool = False
    targets: tuple[str, ...] = ("attention.query_key_value", "attention.dense")
    layers: str = ""


@dataclass(frozen=True)
class PTuning:
    """Settings of P-tuning v2: `tokens` virtual tokens in front of the keys of every block.

    With `reparameterise`, a network of hidden size `width` (0: the model's) generates them during training.
    """

    tokens: int = 32
    reparameterise: bool = False
    width: int = 0


@dataclass(frozen=True)
class Finetuning:
    """Settings of one run. Paths are relative to the working directory; 0 or an empty text chooses automatically.

    `adapter` (`DIR` or `DIR@STEP`) is trained further instead of a new one; its kind and sizes must be the recipe's.
    `data` and `validation` are files (formats: `datasets/`). Without `validation`, the fraction `validation_share`
    of the rows is held out. A step trains on `batch * accumulate` answers per process. The learning rate rises for the
    fraction `warmup` of the steps, then falls to 0 as a cosine. Every `save_steps` steps (0: each epoch) the run is
    saved and validated. The newest `keep` checkpoints are kept. After `early_stop` validations without improvement the
    run ends (0: never). `dtype` is the dtype of frozen weights and of the computation; trained weights are float32.
    `max_tokens` limits a row (0: the model's limit). `sop_loss = false` leaves `<sop>`, which ends every prompt, out of
    the loss; upstream trains it. `answers` held-out rows are answered before and after training
    and shown in the report; questions about `forgetting` drawn scenes are too (0: none), as `evaluate --task scenes`
    asks them. `workers` processes decode images (0: the training process). Of several processes (torchrun), each holds
    the whole model with `sharding` `ddp`, or a shard of it with `fsdp` (method `full` only).
    """

    data: str
    output: str
    model: str = ""
    adapter: str = ""
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
    sop_loss: bool = True
    workers: int = 0
    sharding: str = "ddp"
    seed: int = 0
    save_steps: int = 0
    keep: int = 2
    early_stop: int = 0
    answers: int = 24
    forgetting: int = 0
    max_new_tokens: int = 64
    tensorboard: bool = False
    parts: TrainedModules = field(default_factory=TrainedModules)
    lora: Lora = field(default_factory=Lora)
    ptuning: PTuning = field(default_factory=PTuning)

    @property
    def caches(self) -> bool:
        """True if each image is encoded once and cached: only possible if all vision-side modules are frozen."""
        return self.cache_features and not self.parts.image_trains

    @property
    def base_model(self) -> str:
        """The model to train: `model`, or the default one."""
        return self.model or str(default_model())

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or LEARNING_RATES[self.method]


def read_finetuning(path: str | Path | None, changes: tuple[str, ...] = (), **given: Any) -> Finetuning:
    """Read a recipe (or None), then apply `changes` (`key=value`, as in TOML), then the flags in `given`.

    Raises:
        UsageError: a setting is unknown, missing or out of range.
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
            raise UsageError(f"{needed} is not set. Give --{needed}, or a recipe that has it.")
    return validate(fill_settings(Finetuning, table, "the recipe"))


def validate(recipe: Finetuning) -> Finetuning:
    """Check the settings and fill in how the language model trains.

    Raises:
        UsageError: a setting is out of range, or settings contradict each other.
    """
    _check_choice("method", recipe.method, METHODS)
    _check_choice("dtype", recipe.dtype, DTYPES)
    _check_choice("sharding", recipe.sharding, SHARDINGS)
    _check_choice("language", recipe.language, ("auto", "zh", "en"))
    parts = replace(recipe.parts, language=recipe.parts.language or LANGUAGE[recipe.method])
    for part, mode in vars(parts).items():
        if (part, mode, recipe.method) != ("language", "prefix", "ptuning"):
            _check_choice(f"parts.{part}", mode, TRAIN_MODES)
    _check_modes(recipe.method, vars(parts))
    if recipe.sharding == "fsdp" and recipe.method != "full":
        raise UsageError(
            f"sharding fsdp is for method full, not {recipe.method}. Remove sharding (the default is ddp)."
        )
    if recipe.adapter:
        _check_trains_adapter(recipe)
    _check_ranges(recipe)
    _check_targets(recipe.lora.targets)
    return replace(recipe, parts=parts)


def _check_modes(method: str, modes: dict[str, str]) -> None:
    chosen = set(modes.values())
    if method == "full" and ("lora" in chosen or "full" not in chosen):
        raise UsageError(
            "method full trains whole parts. Set each of parts to full or frozen, and at least one to full."
        )
    if method in ("lora", "qlora") and ("lora" not in chosen or modes["language"] == "full"):
        raise UsageError(
            f"method {method} needs lora for at least one of parts, and lora or frozen for the language model. Change "
            'parts, or set method = "full".'
        )
    if method == "ptuning" and (modes["language"] != "prefix" or chosen != {"prefix", "frozen"}):
        raise UsageError("method ptuning trains only a prefix of the language model. Remove parts.")


def _check_trains_adapter(recipe: Finetuning) -> None:
    """Raise `UsageError` unless an existing adapter can be trained further with this method."""
    if recipe.method == "full":
        raise UsageError(
            "adapter is for lora, qlora and ptuning. Merge it into its base (visualglm merge), and train that model."
        )
    if recipe.ptuning.reparameterise:
        raise UsageError(
            "A stored prefix has no network that generates it. Remove ptuning.reparameterise to train it further."
        )


def _check_ranges(recipe: Finetuning) -> None:
    for name, value in _values(recipe, POSITIVE_SETTINGS).items():
        if not 0 < value < math.inf:
            raise UsageError(f"{name} is {value}. Give a number above 0.")
    for name, value in _values(recipe, NON_NEGATIVE_SETTINGS).items():
        if not 0 <= value < math.inf:
            raise UsageError(f"{name} is {value}. Give 0 or more.")
    for name, value in _values(recipe, FRACTION_SETTINGS).items():
        if not 0 <= value < 1:
            raise UsageError(f"{name} is {value}. Give a fraction of at least 0 and less than 1.")
    if recipe.seed >= SEEDS:
        raise UsageError(f"seed is {recipe.seed}. Give a number below {SEEDS}.")


def _values(recipe: Finetuning, names: tuple[str, ...]) -> dict[str, float]:
    return {name: operator.attrgetter(name)(recipe) for name in names}


def _check_targets(targets: Any) -> None:
    """Raise `UsageError` unless `targets` is a tuple of at least one name."""
    if not isinstance(targets, tuple) or not targets or not all(isinstance(target, str) for target in targets):
        given = list(targets) if isinstance(targets, tuple) else targets
        raise UsageError(f"lora.targets is {given!r}. Give a list of linear layers, e.g. ['attention.dense'].")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        like = nearest_word(value, known)
        raise UsageError(f"{name} is {value!r}; did you mean {like}? Choose from {', '.join(known)}.")


def layer_numbers(text: str, count: int) -> list[int]:
    """Parse `0-13,27` as block numbers, ranges inclusive; an empty text selects all `count` blocks.

    Raises:
        UsageError: the text is not a list of ranges, or names a block that does not exist.
    """
    if not text:
        return list(range(count))
    numbers: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", piece)
        if match is None:
            raise UsageError(f"lora.layers is {text!r}. Write blocks and ranges, e.g. 0-13,27.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise UsageError(f"lora.layers is {text!r}. The model's blocks are 0 to {count - 1}; name some of these.")
        numbers |= set(range(first, last + 1))
    return sorted(numbers)
