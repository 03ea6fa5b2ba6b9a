"""What vLLM's configuration must say for this model, and which flags are refused.

A prefix is read at once and by nobody else, so prefix caching and chunked prefill are off: off by default here, refused
where somebody turned them on. Leans on two methods of `EngineArgs`, one of them private: the only place that still
knows whether a flag was given. Where they are passed by, `verify_and_update_config` refuses what it finds.
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

TOKENIZER_MODE = "visualglm"
"""The name under which vLLM finds our tokenizer and renderer."""
FORBIDDEN_FLAGS = {"enable_prefix_caching": "prefix caching", "enable_chunked_prefill": "chunked prefill"}


def refuse(flag: str, what: str) -> UsageError:
    """One sentence about a flag that may not be on."""
    return UsageError(
        f"VisualGLM reads a prompt whole and in both directions, so {what} would change its answers: leave "
        f"--{flag.replace('_', '-')} out."
    )


def set_defaults() -> None:
    """Has `EngineArgs` choose our tokenizer and, on a CPU, our dtype, and turn the two flags off, for this model alone.

    A second call changes nothing. The tokenizer must be known before the configuration is made, which tries it.
    """
    make_config, fill = EngineArgs.create_model_config, EngineArgs._set_default_chunked_prefill_and_prefix_caching_args
    if getattr(fill, "knows_visualglm", False):
        return

    def make_ours(self: Any) -> ModelConfig:
        config = native_config(self.model)
        if config is not None:
            from .supported_checkpoints import (
                require_language_bits,  # here, for other models' processes need none of it
            )

            require_language_bits(self.model, config)
            self.tokenizer_mode = TOKENIZER_MODE
            if self.dtype == "auto" and current_platform.is_cpu():
                self.dtype = str(cpu_dtype(config)).removeprefix("torch.")
        return make_config(self)

    def fill_ours(self: Any, model_config: ModelConfig) -> None:
        if isinstance(model_config.hf_config, VisualGLMConfig):
            for flag, what in FORBIDDEN_FLAGS.items():
                if getattr(self, flag):
                    raise refuse(flag, what)
                setattr(self, flag, False)
        fill(self, model_config)

    fill_ours.knows_visualglm = True  # type: ignore[attr-defined]
    EngineArgs.create_model_config = make_ours
    EngineArgs._set_default_chunked_prefill_and_prefix_caching_args = fill_ours


def native_config(model: str) -> VisualGLMConfig | None:
    """The configuration of a native VisualGLM's folder or hub id; of others, nothing: vLLM opens those."""
    try:
        found, _ = PreTrainedConfig.get_config_dict(model)
    except (OSError, ValueError):
        return None
    return VisualGLMConfig.from_dict(found) if found.get("model_type") == VisualGLMConfig.model_type else None


class PrefixConfig(VerifyAndUpdateConfig):
    """vLLM's hook for what a model demands of its configuration."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Our tokenizer and renderer, greedy where the checkpoint is, and prompt lengths for attention.py."""
        config = model_config.hf_config
        if config.prefix_length:
            raise UsageError(
                "this checkpoint has a P-tuning prefix, which vLLM's attention has no place for: serve it with "
                "--engine transformers."
            )
        if model_config.enable_prompt_embeds:
            raise refuse("enable_prompt_embeds", "a prompt of vectors, which has no <sop>,")
        config.rswa_window = config.max_sequence_length  # only so that the runner hands prompt lengths over
        model_config.model_arch_config = model_config.get_model_arch_config()
        _keep_greedy(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Refuses what would split a prompt; room for the pictures of two passes, so that none is put off.

        vLLM would otherwise read a prompt up to the first picture that finds no room. A pass has no more slots than
        tokens, and the pass before may still hold its own.
        """
        scheduler = vllm_config.scheduler_config
        forced = {
            "enable_prefix_caching": vllm_config.cache_config.enable_prefix_caching,
            "enable_chunked_prefill": scheduler.enable_chunked_prefill,
        }
        for flag, on in forced.items():
            if on:
                raise refuse(flag, FORBIDDEN_FLAGS[flag])
        if vllm_config.speculative_config is not None:
            raise refuse("speculative_config", "speculative decoding")
        if vllm_config.kv_transfer_config is not None:
            raise refuse("kv_transfer_config", "keys and values from elsewhere")
        scheduler.encoder_cache_size = 2 * max(scheduler.encoder_cache_size, scheduler.max_num_batched_tokens)
        vllm_config.model_config.enforce_eager = True  # a captured graph would keep one pass's prefixes


def _keep_greedy(model_config: ModelConfig) -> None:
    """vLLM samples at temperature 1 unless told; a checkpoint with `do_sample` false means the likeliest token."""
    if model_config.generation_config == "vllm":
        return
    if not model_config.try_get_generation_config().get("do_sample", False):
        model_config.override_generation_config = {"temperature": 0.0, **model_config.override_generation_config}
