"""Which of the likely next tokens is taken, as upstream's two interfaces do it.

Upstream's Hugging Face code and its sat code differ in the repetition penalty (which ids, which sign rule), in the
defaults and in how top-k and top-p hang together; both are here as named presets. Source: FACTS of upstream's
`modeling_chatglm.py` (`chat`, `stream_chat`) and of sat's `base_strategy.py` 18-96. Knows nothing about models or text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ..errors import UsageError

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
    # the last three are transformers' own defaults: they stop it from warning that greedy does not use them
    "greedy": dict(do_sample=False, min_length=0, repetition_penalty=1.0, temperature=1.0, top_p=1.0, top_k=50),
}
SAT_PRESETS = ("sat", "sat_cli")


class SlotAwareRepetitionPenalty(LogitsProcessor):
    """Upstream's Hugging Face rule: every id so far counts, prompt included; a positive logit is divided by the
    penalty, a negative one multiplied. Upstream's image slots hold the unk id, so a slot here counts as
    `slot_counts_as` and not as itself; a *generated* `image_token_id`, behind `<sop>`, is an id like any other. Left
    padding does not count: a row in a batch is treated as if it ran alone.
    """

    def __init__(
        self, penalty: float, image_token_id: int, slot_counts_as: int, sop: int, padding: Tensor | None = None
    ) -> None:
        self.penalty = penalty
        self.image_token_id = image_token_id
        self.slot_counts_as = slot_counts_as
        self.sop = sop
        self.padding = padding

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """ids [B, T] and scores [B, vocabulary] -> scores [B, vocabulary]."""
        seen = torch.zeros_like(scores, dtype=torch.bool)
        slots = (input_ids == self.image_token_id) & ((input_ids == self.sop).cumsum(-1) == 0)
        counted = torch.where(slots, self.slot_counts_as, input_ids)
        if self.padding is not None:  # repeats the first real id in the place of the pads
            index = torch.arange(counted.shape[-1], device=counted.device)
            first_real = self.padding.to(counted.device).repeat_interleave(len(counted) // len(self.padding))[:, None]
            counted = counted.gather(1, torch.maximum(index.expand_as(counted), first_real))
        seen.scatter_(1, counted.to(scores.device), True)
        penalised = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        return torch.where(seen, penalised, scores)


class GeneratedOnlyPenalty(LogitsProcessor):
    """sat's rule: only generated ids count, and every logit is divided, so a negative one gets *more* likely.

    The length of the prompt is that of the first call: make a new object for each generation.
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
    """sat's `invalid_slices`: ids that are never generated (English answers forbid the Chinese range)."""

    def __init__(self, slices: list[slice]) -> None:
        self.slices = slices

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores [B, vocabulary] -> scores [B, vocabulary], the slices at minus infinity."""
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


def resolve(preset: str | None = None, invalid_slices: list[slice] | None = None, **sampling: Any) -> dict[str, Any]:
    """Keyword arguments for `generate` from a preset's name and the caller's own arguments, which win.

    `temperature=0` and `do_sample=False` both mean greedy, and greedy means no repetition penalty and no min_length
    unless they are given. Arguments that are None count as not given.

    Raises:
        UsageError: there is no preset of that name.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"there is no sampling preset {preset!r}: choose one of {', '.join(PRESETS)}.")
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
        processors.append(SuppressSlices(invalid_slices))
    return {**arguments, "logits_processor": processors} if processors else arguments


def _apply_sat_rules(arguments: dict[str, Any], processors: LogitsProcessorList) -> None:
    """sat's own penalty, and its top-p inside the `top_k > 0` branch: top_k 0 samples from everything."""
    penalty = arguments.pop("repetition_penalty", 1.0)
    arguments["repetition_penalty"] = 1.0
    arguments.setdefault("min_length", 0)
    if penalty != 1.0:
        processors.append(GeneratedOnlyPenalty(penalty))
    if arguments.get("top_k") == 0:
        arguments["top_p"] = 1.0
    elif arguments.get("top_p") == 0:
        arguments |= {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}  # unused, so transformers' own
