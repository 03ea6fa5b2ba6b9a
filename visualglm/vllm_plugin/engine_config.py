"""Engine configuration for VisualGLM: defaults, and flags that are rejected.

A bidirectional prefix must be prefilled in one pass and cannot be shared between requests. So prefix caching and
chunked prefill are off by default, and rejected if the user turns them on. Depends on two methods of `EngineArgs` (one
is private), because only they can tell whether a flag was given. `verify_and_update_config` checks again, for engines
that are not built from `EngineArgs`.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from vllm.config import ModelConfig, VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform

from ..errors import UsageError
from ..hardware.devices import cpu_dtype
from ..network.configuration import VisualGLMConfig
from .finite_logits import count_nan
from .repetition import register_repetition

TOKENIZER_MODE = "visualglm"
"""The name under which vLLM finds our tokenizer and renderer."""
FORBIDDEN_FLAGS = {"enable_prefix_caching": "prefix caching", "enable_chunked_prefill": "chunked prefill"}
"""Flags that would change the answers, with the name of the feature for the error message."""


def unsupported_flag(flag: str, feature: str) -> UsageError:
    """Build the error for a flag that VisualGLM cannot run with."""
    return UsageError(
        f"VisualGLM's attention over the prompt is bidirectional, so {feature} would change its answers. Remove "
        f"--{flag.replace('_', '-')}."
    )


def set_defaults() -> None:
    """Patch `EngineArgs` for VisualGLM models: our tokenizer, our dtype on a CPU, and the forbidden flags off.

    Idempotent. The tokenizer is set before the configuration is created, because creating it opens the tokenizer.
    """
    create_config = EngineArgs.create_model_config
    set_flags = EngineArgs._set_default_chunked_prefill_and_prefix_caching_args
    if getattr(set_flags, "supports_visualglm", False):
        return

    def create_model_config(self: Any) -> ModelConfig:
        config = native_config(self.model)
        if config is not None:
            from .supported_checkpoints import check_only_language_quantized  # not needed for other models

            check_only_language_quantized(self.model, config)
            self.tokenizer_mode = TOKENIZER_MODE
            if self.dtype == "auto" and current_platform.is_cpu():
                self.dtype = str(cpu_dtype(config)).removeprefix("torch.")
        return create_config(self)

    def set_default_flags(self: Any, model_config: ModelConfig) -> None:
        if isinstance(model_config.hf_config, VisualGLMConfig):
            for flag, feature in FORBIDDEN_FLAGS.items():
                if getattr(self, flag):
                    raise unsupported_flag(flag, feature)
                setattr(self, flag, False)
        set_flags(self, model_config)

    set_default_flags.supports_visualglm = True  # type: ignore[attr-defined]
    EngineArgs.create_model_config = create_model_config
    EngineArgs._set_default_chunked_prefill_and_prefix_caching_args = set_default_flags


def native_config(model: str) -> VisualGLMConfig | None:
    """Read the configuration of a native VisualGLM folder or hub id; None for any other model."""
    try:
        found, _ = PreTrainedConfig.get_config_dict(model)
    except (OSError, ValueError):
        return None
    return VisualGLMConfig.from_dict(found) if found.get("model_type") == VisualGLMConfig.model_type else None


class PrefixConfig(VerifyAndUpdateConfig):
    """vLLM's hook that checks and completes the engine configuration of a model."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Keep greedy checkpoints greedy, and request the prompt lengths that attention.py needs.

        Raises:
            UsageError: the checkpoint has a P-tuning prefix, or prompt embeddings are enabled.
        """
        config = model_config.hf_config
        if config.prefix_length:
            raise UsageError(
                "This checkpoint has a P-tuning prefix, which vLLM's attention does not support. Serve it with "
                "--engine transformers."
            )
        if model_config.enable_prompt_embeds:
            raise unsupported_flag("enable_prompt_embeds", "a prompt of embeddings, which has no <sop>,")
        config.rswa_window = config.max_sequence_length  # makes the runner pass prompt lengths
        model_config.model_arch_config = model_config.get_model_arch_config()
        _keep_greedy(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Reject features that would split a prompt, enlarge the encoder cache, and register the rules for logits.

        vLLM otherwise prefills a prompt only up to the first image that does not fit into the encoder cache. A pass
        has at most as many placeholder tokens as tokens, and the previous pass may still hold its images: so the cache
        gets twice the tokens of a pass.

        Raises:
            UsageError: prefix caching, chunked prefill, speculative decoding or a KV connector is on.
        """
        scheduler = vllm_config.scheduler_config
        forced = {
            "enable_prefix_caching": vllm_config.cache_config.enable_prefix_caching,
            "enable_chunked_prefill": scheduler.enable_chunked_prefill,
        }
        for flag, on in forced.items():
            if on:
                raise unsupported_flag(flag, FORBIDDEN_FLAGS[flag])
        if vllm_config.speculative_config is not None:
            raise unsupported_flag("speculative_config", "speculative decoding")
        if vllm_config.kv_transfer_config is not None:
            raise unsupported_flag("kv_transfer_config", "a KV cache from another process")
        scheduler.encoder_cache_size = 2 * max(scheduler.encoder_cache_size, scheduler.max_num_batched_tokens)
        count_nan()
        register_repetition(vllm_config)
        vllm_config.model_config.enforce_eager = True  # a captured graph would reuse the prefix lengths of one pass


def _keep_greedy(model_config: ModelConfig) -> None:
    """Set temperature 0 for a checkpoint whose `do_sample` is false; vLLM's default is temperature 1."""
    if model_config.generation_config == "vllm":
        return
    if not model_config.try_get_generation_config().get("do_sample", False):
        model_config.override_generation_config = {"temperature": 0.0, **model_config.override_generation_config}
