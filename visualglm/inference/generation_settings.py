"""Merge a checkpoint's generation config, a preset and the caller's arguments into the settings of one answer."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, LogitsProcessorList

from ..errors import UsageError
from ..network import sampling
from ..network.configuration import VisualGLMConfig
from ..network.configuration_checks import shown
from ..network.generation_checks import fault_of_arguments
from ..preprocessing.incremental_decoder import IncrementalDecoder
from ..preprocessing.token_bytes import ByteDecoder
from ..preprocessing.tokenizer import ChatGLMTokenizer
from .json_grammar import JsonGrammar
from .sampling_arguments import normalize_sampling, split_stop_strings

RESERVED_ANSWER_TOKENS = 64
"""Tokens reserved for the answer if only `max_length` is limited; upstream reserves none and truncates answers."""


SEEDS = (-(2**63), 2**64 - 1)
"""Minimum and maximum of torch's seeds."""


@dataclass(frozen=True)
class LengthLimits:
    """Limits in tokens: `total` for dialogue and answer, `answer` for the answer.

    Old turns are dropped until `reserve` tokens are free for the answer.
    """

    total: int
    answer: int
    reserve: int

    @property
    def prompt_goal(self) -> int:
        """Maximum length of a prompt that leaves room for the reserve."""
        return max(self.total - self.reserve, 0)


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of one answer: generation config, logits processors, length limits, and the seed of the draws.

    Without a seed (None) torch's global generators are used as they are.
    """

    config: GenerationConfig
    beside: dict[str, Any]
    limits: LengthLimits
    counts_new_tokens: bool
    seed: int | None = None
    stops: Sequence[str] = ()
    """Strings that end the answer; they are not part of it."""
    grammar: JsonGrammar | None = None
    """What a JSON answer must match."""

    @property
    def eos(self) -> set[int]:
        """Ids that end an answer."""
        return set(torch.as_tensor(self.config.eos_token_id).flatten().tolist())

    def new_tokens(self, prompt_tokens: int) -> int:
        """Return the maximum number of new tokens after a prompt of `prompt_tokens` tokens."""
        return max(1, min(self.limits.answer, self.limits.total - prompt_tokens))

    def arguments(self, prompt_tokens: int) -> dict[str, Any]:
        """Build keyword arguments for `generate` after a prompt; build new ones for each answer.

        The limit is written under the name that the checkpoint's own config uses, because transformers fills None from
        there and warns if both kinds are set.
        """
        config = copy.deepcopy(self.config)
        new_tokens = self.new_tokens(prompt_tokens)
        if self.counts_new_tokens:
            config.max_new_tokens, config.max_length = new_tokens, None
        else:
            config.max_new_tokens, config.max_length = None, prompt_tokens + new_tokens
        config.min_length = min(config.min_length or 0, prompt_tokens + new_tokens)
        processors = [*self.beside.get("logits_processor", [])]
        if self.grammar is not None:
            processors.append(self.grammar.processor())
        if self.seed is not None and config.do_sample:
            processors.append(sampling.SeededDraw(self.seed))
        return {"generation_config": config, **self.beside, "logits_processor": LogitsProcessorList(processors)}


def start_decoder(tokenizer: ChatGLMTokenizer, settings: GenerationSettings) -> IncrementalDecoder | ByteDecoder:
    """Return what decodes an answer of these settings id by id."""
    return settings.grammar.decoder() if settings.grammar else IncrementalDecoder(tokenizer, process=True)


class ConfiguredModel(Protocol):
    """A model with what the settings of an answer depend on."""

    @property
    def config(self) -> VisualGLMConfig: ...

    @property
    def generation_config(self) -> GenerationConfig: ...


def generation_settings(
    model: ConfiguredModel, preset: str | None = None, seed: int | None = None, **arguments: Any
) -> GenerationSettings:
    """Merge the checkpoint's generation config with a preset and the caller's arguments.

    The limit on length is the smallest of what the caller allows (`max_length`, which counts the prompt,
    `max_new_tokens`) and `max_sequence_length`. With a `seed`, an answer draws from a generator of its own.

    Raises:
        UsageError: an unknown or reserved argument, a length below 1, an invalid seed or stop string.
    """
    stops, given = split_stop_strings(normalize_sampling({"preset": preset, **arguments}))
    given.pop("preset", None)
    grammar = given.pop("json_schema", None)
    if grammar is not None:
        _check_grammar(grammar, given)
    _check_arguments(given)
    resolved = sampling.resolve(preset, **given)
    fault = fault_of_arguments(resolved, model.config.vocab_size)
    if fault is not None:
        raise UsageError(f"{fault}.")
    beside = {"logits_processor": resolved.pop("logits_processor")} if "logits_processor" in resolved else {}
    config = copy.deepcopy(model.generation_config)
    if "max_length" in given or "max_new_tokens" in given:  # the caller's kind of limit replaces the checkpoint's
        config.max_length = config.max_new_tokens = None
    beside |= config.update(**resolved)
    if config.eos_token_id is None:
        config.eos_token_id = model.config.eos_token_id
    counts_new_tokens = model.generation_config.max_new_tokens is not None
    seed = None if seed is None else _checked_seed(seed, config)
    return GenerationSettings(config, beside, _limits(model, config), counts_new_tokens, seed, stops, grammar)


def _limits(model: ConfiguredModel, config: GenerationConfig) -> LengthLimits:
    capacity = model.config.max_sequence_length
    total = min(config.max_length or capacity, capacity)
    if config.max_new_tokens is None:
        return LengthLimits(total, total, min(RESERVED_ANSWER_TOKENS, total // 8))
    return LengthLimits(total, config.max_new_tokens, min(config.max_new_tokens, total // 4))


def _checked_seed(seed: Any, config: GenerationConfig) -> int:
    number = operator.index(seed) if hasattr(seed, "__index__") else None
    if number is None or not SEEDS[0] <= number <= SEEDS[1]:
        raise UsageError(f"seed is {shown(seed)}. Give a whole number from {SEEDS[0]} to {SEEDS[1]}.")
    if config.do_sample and (config.num_beams or 1) > 1:
        raise UsageError(
            "seed is given, but sampled beams (num_beams above 1 with do_sample) draw from torch's global generators. "
            "Leave out seed, num_beams or do_sample."
        )
    return number


def _check_grammar(grammar: Any, arguments: dict[str, Any]) -> None:
    if not isinstance(grammar, JsonGrammar):
        raise UsageError("json_schema needs the tokenizer here. Use ask, a conversation, or compile_json_schema.")
    if (arguments.get("num_beams") or 1) > 1:
        raise UsageError("json_schema is given, but beam search (num_beams above 1) cannot follow it: leave out one.")


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name in ("max_length", "max_new_tokens"):
        value = arguments.get(name)
        if type(value) is int and value < 1:
            raise UsageError(f"{name} is {value}: an answer needs at least 1 token.")
    returned = arguments.get("num_return_sequences")
    if type(returned) is int and returned > 1:
        raise UsageError("num_return_sequences is above 1, but a dialogue goes on with one answer. Ask several times.")
