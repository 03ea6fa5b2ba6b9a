"""A stranger's `adapter_config.json` -> PEFT's LoRA configuration, without what it may hide.

PEFT matches regular expressions from the file against every module, repeats layers, imports modules and makes matrices
of any rank, all at the file's word. Here expressions become whole names within a limit of time, ranks are those of the
matrices in the file, and settings that an adapter for this model does not need are refused by name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import regex  # has a limit of time; transformers needs it too
from torch import Tensor, nn

from ..errors import CheckpointError
from .files import CONFIG, read_adapter_config

SECONDS = 2.0
"""For all expressions of a file together; those that `visualglm finetune` writes take milliseconds."""
LONGEST = 200_000
EXPRESSION = re.compile(r"(?:[^{(]|\((?!\?)|\(\?:)*+", re.DOTALL)
"""Without counts, recursion and looking around, whose memory no limit of time bounds."""
PLAIN = re.compile(r"[\w.]+")
KEPT = (
    *("r", "lora_alpha", "target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern"),
    *("layers_to_transform", "layers_pattern", "bias", "lora_bias", "fan_in_fan_out", "use_rslora", "use_dora"),
)
BIASES = ("none", "all", "lora_only")
FLAGS = ("lora_bias", "fan_in_fan_out", "use_rslora", "use_dora")
IGNORED = (
    *("peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type"),
    *("inference_mode", "lora_dropout", "init_lora_weights", "ensure_weight_tying", "qalora_group_size"),
    *("runtime_config", "megatron_core"),
)
"""Of training, or of PEFT's own classes; none changes what a trained adapter computes."""


def stored_lora(model: Any, folder: Path, tensors: Mapping[str, Tensor]) -> Any:
    """The configuration of the LoRA in `folder`, whose tensors (by the model's names) have the ranks that it says.

    Raises:
        CheckpointError: a setting is not known here, or an expression takes too long to match.
        ValueError: it does not fit the model or the tensors.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    raw = _known_settings(read_adapter_config(folder), folder)
    match = _Matcher(folder)
    names = [name for name, _ in _bare_modules(model)]
    if isinstance(raw.get("target_modules"), str):
        raw["target_modules"] = _exactly([name for name in names if match(raw["target_modules"], name)])
    targets = [name for name in names if check_target_module_exists(LoraConfig(**_where(raw)), name)]
    for pattern in ("rank_pattern", "alpha_pattern"):
        raw[pattern] = _by_name(raw.get(pattern) or {}, targets, match)
    config = LoraConfig(**raw, inference_mode=True)
    for name in targets:
        rank = config.rank_pattern.get(re.escape(name), config.r)
        _require_rank(name, model.get_submodule(name), rank, tensors)
    return config


def _known_settings(stored: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What is kept of a file's settings.

    Raises:
        CheckpointError: it has others that are switched on, or expressions where only names are taken.
    """
    where = folder / CONFIG
    other = [key for key, value in stored.items() if key not in (*KEPT, *IGNORED) and value]
    if stored.get("init_lora_weights") not in (True, False, None, "gaussian"):
        other.append("init_lora_weights")  # these change the base's weights
    if other:
        raise CheckpointError(f"{where} sets {', '.join(other[:8])[:200]}, which is not supported. Merge it with PEFT.")
    raw = {key: stored[key] for key in KEPT if stored.get(key) is not None}
    wrong = [key for key in FLAGS if not isinstance(raw.get(key, False), bool)]
    wrong += ["bias"] if raw.get("bias", BIASES[0]) not in BIASES else []
    wrong += ["lora_alpha"] if type(raw.get("lora_alpha", 1)) not in (int, float) else []
    if wrong:
        raise CheckpointError(f"{where} has a {wrong[0]} of another kind than PEFT writes. Copy the adapter again.")
    for key in ("exclude_modules", "modules_to_save", "layers_pattern", "target_modules"):
        value = raw.get(key, [])
        if isinstance(value, str) and key in ("target_modules", "layers_pattern"):
            value = [] if key == "target_modules" else [value]
        if not isinstance(value, list) or not all(isinstance(name, str) and PLAIN.fullmatch(name) for name in value):
            raise CheckpointError(f"{where} has a {key} that is no list of names. Write the names of modules.")
    for key in ("rank_pattern", "alpha_pattern"):
        value = raw.get(key, {})
        if not isinstance(value, dict) or not all(type(number) in (int, float) for number in value.values()):
            raise CheckpointError(f"{where} has a {key} that is no table of numbers. Copy the adapter again.")
    return raw


def _where(raw: dict[str, Any]) -> dict[str, Any]:
    """The settings that say which modules are adapted."""
    keys = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
    return {key: raw[key] for key in keys if key in raw}


def _bare_modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The model's own modules, without those that belong to PEFT's layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    laid: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name and not name.startswith(laid or "\0"):
            yield name, module
            if isinstance(module, BaseTunerLayer):
                laid += (f"{name}.",)


def _by_name(table: dict[str, float], targets: list[str], match: _Matcher) -> dict[str, float]:
    """A table by expressions for the ends of names -> one by whole names; the first that fits counts, as in PEFT."""
    table_by_name: dict[str, float] = {}
    for name in targets:
        key = next((key for key in table if match(rf"(.*\.)?({key})$", name)), None)
        if key is not None:
            table_by_name[re.escape(name)] = table[key]
    return table_by_name


def _exactly(names: list[str]) -> str:
    """An expression for these names; one that fits nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def _require_rank(name: str, module: Any, rank: Any, tensors: Mapping[str, Tensor]) -> None:
    if isinstance(module, nn.Embedding):
        matrix, width = tensors.get(f"{name}.lora_embedding_A"), int(module.num_embeddings)
    else:
        matrix, width = tensors.get(f"{name}.lora_A.weight"), int(getattr(module, "in_features", 0))
    if matrix is None or tuple(matrix.shape) != (rank, width):
        found = "is missing" if matrix is None else f"is {list(matrix.shape)}"
        raise ValueError(f"the matrix A of {name} should be [{str(rank)[:40]}, {width}] and {found}")


class _Matcher:
    """Whole matches of a file's expressions, all of them within `SECONDS`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / CONFIG
        self.end = time.monotonic() + SECONDS

    def __call__(self, pattern: str, name: str) -> bool:
        try:
            if len(pattern) > LONGEST or not EXPRESSION.fullmatch(pattern):
                raise TimeoutError
            left = self.end - time.monotonic()
            return regex.fullmatch(pattern, name, timeout=max(left, 1e-3)) is not None
        except (TimeoutError, RecursionError, MemoryError) as error:
            raise CheckpointError(
                f"{self.file} has an expression for modules that is too much work to match. Write their names."
            ) from error
        except regex.error as error:
            raise CheckpointError(f"{self.file} has no regular expression where one belongs ({error}).") from error
