"""Merge a checkpoint's generation config, a preset and the caller's arguments into the settings of one answer."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from ..errors import UsageError
from ..network import sampling
from ..network.generation_limits import fault_of_numbers

RESERVED_GENERATE_ARGS = {
    "generation_config",
    "streamer",
    "stopping_criteria",
    "return_dict_in_generate",
    "inputs",
    "input_ids",
}
"""Arguments of `generate` that a dialogue fills by itself."""


RESERVED_ANSWER_TOKENS = 64
"""Tokens kept free for the answer where only `max_length` is limited; upstream keeps none and cuts its answers."""


@dataclass(frozen=True)
class LengthLimits:
    """How long a dialogue may get: `total` tokens with the answer, `answer` tokens for the answer, of which `reserve`
    are kept free when old turns have to go."""

    total: int
    answer: int
    reserve: int

    @property
    def prompt_goal(self) -> int:
        """The prompt's length that leaves room for the reserve."""
        return max(self.total - self.reserve, 0)


@dataclass(frozen=True)
class GenerationSettings:
    """How to generate: the config, what `generate` takes beside it (logits processors), and the limits on length."""

    config: GenerationConfig
    beside: dict[str, Any]
    limits: LengthLimits
    counts_new_tokens: bool

    @property
    def eos(self) -> set[int]:
        """Ids that end an answer."""
        return set(torch.as_tensor(self.config.eos_token_id).flatten().tolist())

    def new_tokens(self, prompt_tokens: int) -> int:
        """How many tokens an answer may take after a prompt of so many."""
        return max(1, min(self.limits.answer, self.limits.total - prompt_tokens))

    def arguments(self, prompt_tokens: int) -> dict[str, Any]:
        """Keyword arguments for `generate` after a prompt of so many tokens.

        Writes the limit where the checkpoint's own config has one: transformers fills what is None from there, and
        warns where both kinds are set.
        """
        config = copy.deepcopy(self.config)
        new_tokens = self.new_tokens(prompt_tokens)
        if self.counts_new_tokens:
            config.max_new_tokens, config.max_length = new_tokens, None
        else:
            config.max_new_tokens, config.max_length = None, prompt_tokens + new_tokens
        config.min_length = min(config.min_length or 0, prompt_tokens + new_tokens)
        return {"generation_config": config, **self.beside}


def generation_settings(
    model: PreTrainedModel, preset: str | None = None, seed: int | None = None, **arguments: Any
) -> GenerationSettings:
    """The checkpoint's generation config with a preset's and the caller's arguments on top.

    The limit on length is the smallest of what the caller allows (`max_length`, which counts the prompt,
    `max_new_tokens`) and `max_sequence_length`. A `seed` seeds torch's global generators now.

    Raises:
        UsageError: an argument that has no place in a dialogue, or a length below 1.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    _check_arguments(given)
    if seed is not None:
        torch.manual_seed(seed)
    resolved = sampling.resolve(preset, **given)
    fault = fault_of_numbers(resolved)
    if fault is not None:
        raise UsageError(f"{fault}.")
    beside = {"logits_processor": resolved.pop("logits_processor")} if "logits_processor" in resolved else {}
    config = copy.deepcopy(model.generation_config)
    if "max_length" in given or "max_new_tokens" in given:  # the caller's kind of limit replaces the checkpoint's
        config.max_length = config.max_new_tokens = None
    beside |= config.update(**resolved)
    if config.eos_token_id is None:
        config.eos_token_id = model.config.eos_token_id
    return GenerationSettings(
        config, beside, _limits(model, config), model.generation_config.max_new_tokens is not None
    )


def _limits(model: PreTrainedModel, config: GenerationConfig) -> LengthLimits:
    capacity = model.config.max_sequence_length
    total = min(config.max_length or capacity, capacity)
    if config.max_new_tokens is None:
        return LengthLimits(total, total, min(RESERVED_ANSWER_TOKENS, total // 8))
    return LengthLimits(total, config.max_new_tokens, min(config.max_new_tokens, total // 4))


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name in ("max_length", "max_new_tokens"):
        if arguments.get(name) is not None and arguments[name] < 1:
            raise UsageError(f"{name} is {arguments[name]}: an answer needs at least 1 token.")
    if (arguments.get("num_return_sequences") or 1) > 1:
        raise UsageError("num_return_sequences is above 1, but a dialogue goes on with one answer: ask several times.")
    taken = sorted(RESERVED_GENERATE_ARGS & set(arguments))
    if taken:
        raise UsageError(f"{', '.join(taken)} cannot be given here: pass sampling arguments, or use model.generate.")
