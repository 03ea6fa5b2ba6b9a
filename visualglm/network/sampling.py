"""Sampling presets and logits processors of upstream's two interfaces.

Upstream's Hugging Face code and its sat code differ in the repetition penalty (which ids count, how the sign is
handled), in the defaults, and in how top-k and top-p interact. Each is a named preset. Sources: upstream's
`modeling_chatglm.py` (`chat`, `stream_chat`) and sat's `base_strategy.py`, lines 18-96.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, NoRepeatNGramLogitsProcessor

from ..errors import AnswerError, UsageError

PRESETS: dict[str, dict[str, Any]] = {
    # upstream's Hugging Face `chat` and `stream_chat`; max_length and min_length count the prompt too
    "hf": dict(
        do_sample=True,
        max_length=1024,
        min_length=100,
        top_p=0.4,
        top_k=100,
        temperature=0.8,
        repetition_penalty=1.2,
    ),
    # sat's `chat` function with its own defaults
    "sat": dict(do_sample=True, max_length=1024, top_p=0.7, top_k=30, temperature=0.95, repetition_penalty=1.2),
    # sat's command line, web page and API
    "sat_cli": dict(do_sample=True, max_length=2048, top_p=0.4, top_k=100, temperature=0.8, repetition_penalty=1.2),
    # the last three are transformers' defaults: other values make it warn that greedy decoding ignores them
    "greedy": dict(do_sample=False, min_length=0, repetition_penalty=1.0, temperature=1.0, top_p=1.0, top_k=50),
}
SAT_PRESETS = ("sat", "sat_cli")
NO_ANSWER = (
    "The model computes NaN or infinity instead of an answer. Weights or adapter are damaged, or float16 overflows. "
    "Check them with `visualglm doctor`, or use dtype bfloat16 or float32."
)
"""The message where logits are not finite."""


class PlaceholderAwareRepetitionPenalty(LogitsProcessor):
    """Repetition penalty of upstream's Hugging Face code.

    Every id so far counts, including the prompt. A positive logit is divided by the penalty, a negative one multiplied.
    Upstream's image placeholders are the unk id, so here a placeholder counts as `placeholder_counts_as`. A *generated*
    `image_token_id` (after `<sop>`) counts as itself. Left padding does not count, so a row of a batch gets the same
    penalty as alone.
    """

    def __init__(
        self, penalty: float, image_token_id: int, placeholder_counts_as: int, sop: int, padding: Tensor | None = None
    ) -> None:
        self.penalty = penalty
        self.image_token_id = image_token_id
        self.placeholder_counts_as = placeholder_counts_as
        self.sop = sop
        self.padding = padding

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """ids [B, T] and scores [B, vocabulary] -> scores [B, vocabulary]."""
        seen = torch.zeros_like(scores, dtype=torch.bool)
        placeholders = (input_ids == self.image_token_id) & ((input_ids == self.sop).cumsum(-1) == 0)
        counted = torch.where(placeholders, self.placeholder_counts_as, input_ids)
        if self.padding is not None:  # replace pads by the first real id, which counts anyway
            index = torch.arange(counted.shape[-1], device=counted.device)
            first_real = self.padding.to(counted.device).repeat_interleave(len(counted) // len(self.padding))[:, None]
            counted = counted.gather(1, torch.maximum(index.expand_as(counted), first_real))
        seen.scatter_(1, counted.to(scores.device), True)
        penalised = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        return torch.where(seen, penalised, scores)


class AnswerNoRepeatNGram(NoRepeatNGramLogitsProcessor):
    """transformers' `no_repeat_ngram_size`, counted within the answer: a question and earlier turns may be repeated.

    The answer begins after the first `<sop>`; without one, all ids are the answer's.
    """

    def __init__(self, ngram_size: int, sop: int) -> None:
        super().__init__(ngram_size)
        self.sop = sop

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """ids [B, T] and scores [B, vocabulary] -> scores [B, vocabulary]."""
        begun = (input_ids == self.sop).cumsum(-1)
        in_answer = (begun.cumsum(-1) > 1) | (begun[:, -1:] == 0)
        if self.ngram_size == 1:  # transformers would forbid the ids of `unlike_any`, too
            vocabulary = scores.shape[-1]
            said = scores.new_zeros((len(scores), vocabulary + 1), dtype=torch.bool)
            said.scatter_(1, torch.where(in_answer, input_ids, vocabulary).to(scores.device), True)
            return scores.masked_fill(said[:, :-1], -torch.inf)
        unlike_any = -1 - torch.arange(input_ids.shape[-1], device=input_ids.device)
        return super().__call__(torch.where(in_answer, input_ids, unlike_any), scores)


class GeneratedOnlyPenalty(LogitsProcessor):
    """sat's repetition penalty: only generated ids count, and every logit is divided.

    So an id with a negative logit becomes *more* likely. The prompt length is taken from the first call: create a new
    object for each generation.
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty
        self.prompt_length: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """ids [B, T] and scores [B, vocabulary] -> scores [B, vocabulary]."""
        if self.prompt_length is None:
            self.prompt_length = input_ids.shape[-1]
        generated = input_ids[:, self.prompt_length :]
        divisor = torch.ones_like(scores).scatter_(1, generated, self.penalty)
        return scores / divisor


class SuppressSlices(LogitsProcessor):
    """Forbid ranges of ids: sat's `invalid_slices`, used to forbid Chinese in English answers."""

    def __init__(self, slices: list[slice]) -> None:
        self.slices = slices

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores [B, vocabulary] -> scores [B, vocabulary] with the slices set to minus infinity."""
        scores = scores.clone()
        for invalid in self.slices:
            scores[:, invalid] = -torch.inf
        return scores


class SeededDraw(LogitsProcessor):
    """Draw the next ids from a generator of its own, and leave them as the only likely ones for `generate` to take.

    It must come last. The ids are those that `torch.manual_seed(seed)` would give; torch's global generators are not
    seeded, and answers in other threads change nothing. Make a new object for each generation: the generator moves on.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generator: torch.Generator | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores [B, vocabulary] -> scores [B, vocabulary]: 0 at the drawn ids, minus infinity elsewhere."""
        if self.generator is None:
            self.generator = torch.Generator(scores.device).manual_seed(self.seed)
        drawn = torch.multinomial(scores.softmax(-1), 1, generator=self.generator)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


class RequireFinite(LogitsProcessor):
    """Check that the largest logit is a finite number: NaN and infinity reach the maximum, suppressed ids do not."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores [B, vocabulary] unchanged.

        Raises:
            AnswerError: it is not.
        """
        if not scores.max().isfinite():
            raise AnswerError(NO_ANSWER)
        return scores


def resolve(preset: str | None = None, invalid_slices: list[slice] | None = None, **sampling: Any) -> dict[str, Any]:
    """Build keyword arguments for `generate` from a preset and the caller's arguments, which take precedence.

    `temperature=0` and `do_sample=False` both mean greedy decoding. Greedy decoding has no repetition penalty and no
    min_length unless they are given. Arguments that are None count as not given.

    Raises:
        UsageError: there is no preset of that name, or `invalid_slices` are no slices.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"There is no sampling preset {preset!r}. Choose one of {', '.join(PRESETS)}.")
    given = {name: value for name, value in sampling.items() if value is not None}
    if given.get("temperature") == 0:
        given = {**given, "do_sample": False}
        del given["temperature"]
    if given.get("do_sample") is False:
        given = {**PRESETS["greedy"], **given}
    arguments = {**(PRESETS[preset] if preset else {}), **given}
    processors = LogitsProcessorList(arguments.pop("logits_processor", None) or [])
    if preset in SAT_PRESETS:
        _apply_sat_rules(arguments, processors)
    if invalid_slices:
        _check_slices(invalid_slices)
        processors.append(SuppressSlices(invalid_slices))
    return {**arguments, "logits_processor": processors} if processors else arguments


def _check_slices(slices: Any) -> None:
    if not isinstance(slices, list | tuple) or not all(isinstance(one, slice) for one in slices):
        raise UsageError("invalid_slices must be a list of slices. Give for example [slice(63823, 130000)].")


def _apply_sat_rules(arguments: dict[str, Any], processors: LogitsProcessorList) -> None:
    """Apply sat's penalty and its top-p rule: top_p is used only if `top_k > 0`; top_k 0 samples from all ids."""
    penalty = arguments.pop("repetition_penalty", 1.0)
    arguments["repetition_penalty"] = 1.0
    arguments.setdefault("min_length", 0)
    if penalty != 1.0:
        processors.append(GeneratedOnlyPenalty(penalty))
    if arguments.get("top_k") == 0:
        arguments["top_p"] = 1.0
    elif arguments.get("top_p") == 0:
        arguments |= {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}  # transformers' defaults
