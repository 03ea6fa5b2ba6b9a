"""Which models and adapters vLLM computes as we do, and one sentence for each of the others.

In: what a user names. Out: folders that vLLM opens with the plugin. vLLM itself asks of an adapter only whether it
knows the last word of its layers' names: one that was made for another model, or also changes the picture's road, could
be laid on in part and answer wrongly. Knows no vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..adapters.files import adapter_folder, read_adapter_config, read_adapter_weights, require_same_base
from ..adapters.manager import LORA, WRAPPED
from ..checkpoints import local_folder
from ..checkpoints.formats.detect import detect_layout
from ..checkpoints.quantize import plan_of_config
from ..errors import CheckpointError, UsageError
from ..network.configuration import VisualGLMConfig

LAYERS = "transformer.layers."
"""How the names of the layers begin that vLLM computes."""


@dataclass(frozen=True)
class LanguageAdapter:
    """LoRA beside the language model's linear layers; `rank` is its highest."""

    folder: Path
    rank: int


def native_folder(model: str | Path) -> Path:
    """A folder or hub id -> the folder, if it is one that vLLM can open with the plugin.

    Raises:
        CheckpointError: it is upstream's or sat's, has more in few bits than vLLM computes so, or is no checkpoint.
    """
    folder, layout = detect_layout(local_folder(model))
    if layout != "native":
        raise CheckpointError(
            f"{folder} has the {layout} layout, and vLLM opens our own only: run `visualglm convert {folder} NEW` and "
            "serve the new folder."
        )
    require_language_bits(folder, VisualGLMConfig.from_pretrained(folder))
    return folder


def require_language_bits(name: str | Path, config: VisualGLMConfig) -> None:
    """Raises `CheckpointError` for a model that has more than the language model's linear layers in 8 or 4 bits."""
    stored = plan_of_config(config)
    other = next((part for part in (stored.modules or {}) if not part.startswith(LAYERS)), None) if stored else None
    if other is not None:
        raise CheckpointError(
            f"{name} has {other} in few bits, and vLLM computes only the language model's linear layers so: serve it "
            "with --engine transformers, or quantize again without --quantize-vision and --quantize-vocabulary."
        )


def language_adapter(place: str | Path, model: str | Path) -> LanguageAdapter:
    """`DIR` or `DIR@STEP` -> the adapter, if vLLM computes it as we do.

    Raises:
        UsageError: there is none, or it is more than LoRA beside the language model's linear layers.
        CheckpointError: it was trained on another model than the folder or hub id `model`, or is damaged.
    """
    folder = adapter_folder(place)
    config = read_adapter_config(folder)
    if config.get("peft_type") != LORA:
        raise UsageError(
            f"{folder} is an adapter of kind {config.get('peft_type')}, which vLLM has no place for: serve it with "
            "--engine transformers."
        )
    other = next((name for name in read_adapter_weights(folder) if not name.startswith(WRAPPED + LAYERS)), None)
    if config.get("use_dora") or other is not None:
        what = "is DoRA" if other is None else f"also changes {other.removeprefix(WRAPPED)}"
        raise UsageError(
            f"{folder} {what}, and vLLM has plain LoRA beside the language model's linear layers only: make one model "
            "with `visualglm merge` and serve that, or use --engine transformers."
        )
    require_same_base(folder, model)
    return LanguageAdapter(folder, max([config["r"], *config.get("rank_pattern", {}).values()]))


def language_adapters(places: Mapping[str, str], model: str | Path) -> dict[str, LanguageAdapter]:
    """`language_adapter` of each name."""
    return {name: language_adapter(place, model) for name, place in places.items()}
