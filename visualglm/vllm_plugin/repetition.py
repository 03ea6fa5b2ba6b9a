"""`no_repeat_ngram_size` of a checkpoint's generation config in vLLM, which has no such argument.

A custom logits processor for checkpoints that set it. A request may set another size, 0 for none, in `extra_args`
(`vllm_xargs` over HTTP). It has the interface of vLLM's first model runner; with the second, which has another, it is
not registered.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from vllm.config import ModelConfig, VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from ..network.generation_checks import WHOLE

SIZE = "no_repeat_ngram_size"


def default_size(model_config: ModelConfig) -> int:
    """Return the checkpoint's size; 0 if it has none, or if vLLM was told to ignore its generation config."""
    stored = {} if model_config.generation_config == "vllm" else model_config.try_get_generation_config()
    return {**stored, **model_config.override_generation_config}.get(SIZE) or 0


def repeating_ids(answer: list[int], size: int) -> list[int]:
    """Return the ids that would complete an n-gram of `size` that the answer already has."""
    last = answer[len(answer) - size + 1 :]
    return [answer[end] for end in range(size - 1, len(answer)) if answer[end - size + 1 : end] == last]


def forbid_repeats(size: int, answer: list[int], logits: Tensor) -> Tensor:
    """Set the logits [vocabulary] of `repeating_ids` to minus infinity, in place."""
    logits[repeating_ids(answer, size)] = -torch.inf
    return logits


def register_repetition(config: VllmConfig) -> None:
    """Register `NoRepeatedNGrams` in an engine's configuration if the checkpoint sets a size."""
    model = config.model_config
    if default_size(model) and not config.use_v2_model_runner:
        model.logits_processors = [*(model.logits_processors or []), f"{__name__}:{NoRepeatedNGrams.__name__}"]


class NoRepeatedNGrams(AdapterLogitsProcessor):
    """Applies `forbid_repeats` to each request, with its own size or the checkpoint's."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self.default = default_size(vllm_config.model_config)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Check the size that a request gives."""
        size = (sampling_params.extra_args or {}).get(SIZE, 0)
        least, most = WHOLE[SIZE]
        if type(size) is not int or not least <= size <= most:
            raise VLLMValidationError(f"{SIZE} must be a whole number from {least} to {most}.", parameter=SIZE)

    def is_argmax_invariant(self) -> bool:
        """Return False: a forbidden id may be the likeliest."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Any:
        """Return the processor of a request; None without a size."""
        size = (params.extra_args or {}).get(SIZE, self.default)
        return partial(forbid_repeats, size) if size else None
