"""Check that vLLM computes a model or an adapter exactly.

In: a path or hub id given by a user. Out: a folder that vLLM can open with the plugin. vLLM itself checks only the last
component of an adapter's layer names. So an adapter of another model, or one that also changes the vision encoder,
would be attached in part and give wrong answers. This file does not import vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..adapters.files import adapter_folder, read_adapter_config, read_adapter_weights, require_same_base
from ..adapters.manager import LORA, WRAPPED
from ..checkpoints import local_folder, open_checkpoint
from ..checkpoints.formats.detect import detect_layout
from ..checkpoints.quantize import plan_of_config
from ..checkpoints.tensor_check import finite_when_read
from ..errors import CheckpointError, UsageError
from ..network.configuration import VisualGLMConfig

LAYERS = "transformer.layers."
"""Prefix of the names of the layers that vLLM computes."""


@dataclass(frozen=True)
class LanguageAdapter:
    """LoRA on the language model's linear layers; `rank` is its highest."""

    folder: Path
    rank: int


def native_folder(model: str | Path) -> Path:
    """Return the folder of a path or hub id, if vLLM can open it with the plugin.

    All weights are read, because vLLM answers with random text if they are damaged.

    Raises:
        CheckpointError: it has upstream's or sat's layout, has quantized modules that vLLM does not support, holds NaN
            or infinite values, or is not a checkpoint.
    """
    folder, layout = detect_layout(local_folder(model))
    if layout != "native":
        raise CheckpointError(
            f"{folder} has the {layout} layout, but vLLM opens only the native one. Run `visualglm convert {folder} "
            "NEW` and serve the new folder."
        )
    check_only_language_quantized(folder, VisualGLMConfig.from_pretrained(folder))
    for tensor in finite_when_read(open_checkpoint(folder)).tensors.values():
        tensor.read()
    return folder


def check_only_language_quantized(name: str | Path, config: VisualGLMConfig) -> None:
    """Raise `CheckpointError` if modules other than the language model's linear layers are quantized."""
    plan = plan_of_config(config)
    other = next((part for part in (plan.modules or {}) if not part.startswith(LAYERS)), None) if plan else None
    if other is not None:
        raise CheckpointError(
            f"{name} has a quantized {other}, but vLLM supports only quantized linear layers of the language model. "
            "Serve it with --engine transformers, or quantize again without --quantize-vision and "
            "--quantize-vocabulary."
        )


def language_adapter(path: str | Path, model: str | Path) -> LanguageAdapter:
    """`DIR` or `DIR@STEP` -> the adapter, if vLLM computes it exactly.

    Raises:
        UsageError: there is none, or it is not plain LoRA on the language model's linear layers.
        CheckpointError: it was trained on another model than the folder or hub id `model`, or is damaged.
    """
    folder = adapter_folder(path)
    config = read_adapter_config(folder)
    if config.get("peft_type") != LORA:
        raise UsageError(
            f"{folder} is an adapter of type {config.get('peft_type')}, which vLLM does not support. Serve it with "
            "--engine transformers."
        )
    other = next((name for name in read_adapter_weights(folder) if not name.startswith(WRAPPED + LAYERS)), None)
    if config.get("use_dora") or other is not None:
        what = "is a DoRA adapter" if other is None else f"also changes {other.removeprefix(WRAPPED)}"
        raise UsageError(
            f"{folder} {what}, but vLLM supports only plain LoRA on the language model's linear layers. Merge it with "
            "`visualglm merge` and serve the merged model, or use --engine transformers."
        )
    require_same_base(folder, model)
    return LanguageAdapter(folder, max([config["r"], *config.get("rank_pattern", {}).values()]))


def language_adapters(paths: Mapping[str, str], model: str | Path) -> dict[str, LanguageAdapter]:
    """Apply `language_adapter` to each path."""
    return {name: language_adapter(path, model) for name, path in paths.items()}
