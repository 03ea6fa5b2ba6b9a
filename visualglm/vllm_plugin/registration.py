"""Register VisualGLM with vLLM.

In vLLM, `model_type: chatglm` is ChatGLM2 and 3; these keep working. Upstream's own VisualGLM folder has the same model
type and is rejected with a message that names `visualglm convert`.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from ..errors import CheckpointError, UsageError
from ..network.configuration import VisualGLMConfig

ARCHITECTURE = "VisualGLMForConditionalGeneration"
UPSTREAM_LAYOUT_MESSAGE = (
    "This folder has VisualGLM in upstream's format, whose model type (chatglm) is another model in vLLM. Run "
    "`visualglm convert FOLDER NEW` and serve the new folder."
)


def register_all() -> None:
    """Register model, configuration, defaults, tokenizer and renderer. Idempotent."""
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from . import quantization  # noqa: F401  (registers what `visualglm quantize` writes)
    from .engine_config import TOKENIZER_MODE, PrefixConfig, set_defaults
    from .finite_logits import patch_scheduler

    AutoConfig.register(VisualGLMConfig.model_type, VisualGLMConfig, exist_ok=True)
    ModelRegistry.register_model(ARCHITECTURE, f"{__package__}.model:VisualGLMForVLLM")
    MODELS_CONFIG_MAP[ARCHITECTURE] = PrefixConfig
    TokenizerRegistry.tokenizers[TOKENIZER_MODE] = (f"{__package__}.tokenizer", "VLLMTokenizer")
    RENDERER_REGISTRY.renderers[TOKENIZER_MODE] = (f"{__package__}.renderer", "VisualGLMRenderer")
    set_defaults()
    patch_scheduler()
    _reject_upstream_folders()


def register_refusal(problem: str) -> None:
    """Register a configuration that raises `problem` when a VisualGLM is opened."""

    class UnsupportedConfig(VisualGLMConfig):
        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            raise UsageError(problem)

    AutoConfig.register(VisualGLMConfig.model_type, UnsupportedConfig, exist_ok=True)


def _reject_upstream_folders() -> None:
    """Reject upstream's VisualGLM folders; depends on vLLM's private table of configurations. Idempotent."""
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    original = _CONFIG_REGISTRY["chatglm"]
    if original.__module__ == __name__:
        return

    class ChatGLMConfig(original):  # type: ignore[valid-type,misc]
        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            if "eva_config" in config_dict:
                raise CheckpointError(UPSTREAM_LAYOUT_MESSAGE)
            return original.from_dict(config_dict, **kwargs)

    _CONFIG_REGISTRY["chatglm"] = ChatGLMConfig
