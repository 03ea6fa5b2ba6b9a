"""Convert an untrusted `adapter_config.json` into PEFT's LoRA configuration, within bounds.

PEFT matches regular expressions from the file against every module, repeats layers, imports modules and creates
matrices of any rank, as the file says. Here expressions become full names within a time limit, ranks are those of the
matrices in the file, and settings that an adapter for this model does not need are rejected by name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import regex  # supports a time limit; transformers needs it too
from torch import Tensor, nn

from ..errors import CheckpointError
from .files import CONFIG, read_adapter_config

SECONDS = 2.0
"""Time limit for all expressions of a file; those that `visualglm finetune` writes take milliseconds."""
LONGEST = 200_000
EXPRESSION = re.compile(r"(?:[^{(]|\((?!\?)|\(\?:)*+", re.DOTALL)
"""Pattern of allowed expressions: no counts, recursion or lookaround, whose memory no time limit bounds."""
PLAIN = re.compile(r"[\w.]+")
KEPT = (
    *("r", "lora_alpha", "target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern"),
    *("layers_to_transform", "layers_pattern", "bias", "lora_bias", "fan_in_fan_out", "use_rslora", "use_dora"),
)
SELECTING = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
"""Settings that select the adapted modules."""
BIASES = ("none", "all", "lora_only")
FLAGS = ("lora_bias", "fan_in_fan_out", "use_rslora", "use_dora")
IGNORED = (
    *("peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type"),
    *("inference_mode", "lora_dropout", "init_lora_weights", "ensure_weight_tying", "qalora_group_size"),
    *("runtime_config", "megatron_core"),
)
"""Settings of training, or of PEFT's own classes; none changes what a trained adapter computes."""


def stored_lora(model: Any, folder: Path, tensors: Mapping[str, Tensor]) -> Any:
    """Build the configuration of the LoRA in `folder`, whose tensors (by the model's names) must have its ranks.

    Raises:
        CheckpointError: a setting is unknown, or an expression takes too long to match.
        ValueError: it does not fit the model or the tensors.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    raw = _known_settings(read_adapter_config(folder), folder)
    match = _Matcher(folder)
    names = [name for name, _ in _bare_modules(model)]
    if isinstance(raw.get("target_modules"), str):
        matching = [name for name in names if match(raw["target_modules"], name)]
        raw["target_modules"] = "|".join(map(re.escape, matching)) or "(?!)"  # exactly these names, or nothing
    selecting = {key: raw[key] for key in SELECTING if key in raw}
    targets = [name for name in names if check_target_module_exists(LoraConfig(**selecting), name)]
    for pattern in ("rank_pattern", "alpha_pattern"):
        raw[pattern] = _by_name(raw.get(pattern) or {}, targets, match)
    config = LoraConfig(**raw, inference_mode=True)
    for name in targets:
        rank = config.rank_pattern.get(re.escape(name), config.r)
        _require_rank(name, model.get_submodule(name), rank, tensors)
    return config


def _known_settings(stored: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the supported settings of a file.

    Raises:
        CheckpointError: others are switched on, or there are expressions where only names are allowed.
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
            raise CheckpointError(f"{where} has a {key} that is not a list of names. Write the names of modules.")
    for key in ("rank_pattern", "alpha_pattern"):
        value = raw.get(key, {})
        if not isinstance(value, dict) or not all(type(number) in (int, float) for number in value.values()):
            raise CheckpointError(f"{where} has a {key} that is not a table of numbers. Copy the adapter again.")
    return raw


def _bare_modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the model's own modules, without those of PEFT's layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name and not name.startswith(wrapped or "\0"):
            yield name, module
            if isinstance(module, BaseTunerLayer):
                wrapped += (f"{name}.",)


def _by_name(table: dict[str, float], targets: list[str], match: _Matcher) -> dict[str, float]:
    """Translate a table by expressions for name endings into one by full names; the first match counts, as in PEFT."""
    table_by_name: dict[str, float] = {}
    for name in targets:
        key = next((key for key in table if match(rf"(.*\.)?({key})$", name)), None)
        if key is not None:
            table_by_name[re.escape(name)] = table[key]
    return table_by_name


def _require_rank(name: str, module: Any, rank: Any, tensors: Mapping[str, Tensor]) -> None:
    if isinstance(module, nn.Embedding):
        matrix, width = tensors.get(f"{name}.lora_embedding_A"), int(module.num_embeddings)
    else:
        matrix, width = tensors.get(f"{name}.lora_A.weight"), int(getattr(module, "in_features", 0))
    if matrix is None or tuple(matrix.shape) != (rank, width):
        found = "is missing" if matrix is None else f"is {list(matrix.shape)}"
        raise ValueError(f"the matrix A of {name} should be [{str(rank)[:40]}, {width}] and {found}")


class _Matcher:
    """Full matches of a file's expressions, all of them within `SECONDS`."""

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
                f"{self.file} has an expression for modules that takes too long to match. Write their names."
            ) from error
        except regex.error as error:
            raise CheckpointError(
                f"{self.file} has an invalid regular expression ({error}). Copy the adapter again."
            ) from error
