"""Tells vLLM everything it must know, under names that are ours alone.

`model_type: chatglm` belongs to ChatGLM2 and 3 in vLLM: they go on working, and upstream's raw VisualGLM folder, which
shares it, is one sentence.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from ..errors import CheckpointError, UsageError
from ..network.configuration import VisualGLMConfig

ARCHITECTURE = "VisualGLMForConditionalGeneration"
HERE = __package__
UPSTREAM_LAYOUT_MESSAGE = (
    "this is VisualGLM in upstream's files, whose name vLLM gives to another model: run `visualglm convert FOLDER NEW` "
    "and serve the new folder."
)


def register_all() -> None:
    """Model, configuration, defaults, tokenizer and renderer; may be called again."""
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from . import quantization  # noqa: F401  (registers what `visualglm quantize` writes)
    from .engine_config import TOKENIZER_MODE, PrefixConfig, set_defaults

    AutoConfig.register(VisualGLMConfig.model_type, VisualGLMConfig, exist_ok=True)
    ModelRegistry.register_model(ARCHITECTURE, f"{HERE}.model:VisualGLMForVLLM")
    MODELS_CONFIG_MAP[ARCHITECTURE] = PrefixConfig
    TokenizerRegistry.tokenizers[TOKENIZER_MODE] = (f"{HERE}.tokenizer", "VLLMTokenizer")
    RENDERER_REGISTRY.renderers[TOKENIZER_MODE] = (f"{HERE}.renderer", "VisualGLMRenderer")
    set_defaults()
    _refuse_raw_folders()


def register_refusal(problem: str) -> None:
    """Only a configuration that says why this vLLM cannot open a VisualGLM."""

    class Refusing(VisualGLMConfig):
        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            raise UsageError(problem)

    AutoConfig.register(VisualGLMConfig.model_type, Refusing, exist_ok=True)


def _refuse_raw_folders() -> None:
    """Leans on vLLM's private table of configurations."""
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    theirs = _CONFIG_REGISTRY["chatglm"]
    if theirs.__module__ == __name__:
        return

    class ChatGLMConfig(theirs):  # type: ignore[valid-type,misc]
        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            if "eva_config" in config_dict:
                raise CheckpointError(UPSTREAM_LAYOUT_MESSAGE)
            return theirs.from_dict(config_dict, **kwargs)

    _CONFIG_REGISTRY["chatglm"] = ChatGLMConfig
