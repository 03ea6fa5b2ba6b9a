"""Build the prompt of a chat for a model, dropping the oldest turns that do not fit, and start its answer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ..errors import PromptError
from ..preprocessing.prompt import Language, Prompt, Turn, build_prompt
from ..preprocessing.tokenizer import ChatGLMTokenizer
from .generation_settings import LengthLimits, generation_settings
from .streaming_reply import StreamingReply


def ask_prompt(
    model: Any, tokenizer: ChatGLMTokenizer, turns: list[Turn], language: Language, limits: LengthLimits
) -> Prompt:
    """The ids that ask the last of `turns`; the oldest turns stay out where the answer would have no room.

    Raises:
        PromptError: the question alone does not fit into the model.
    """
    asked = partial(
        build_prompt,
        tokenizer,
        turns=turns,
        language=language,
        image_token_id=model.config.image_token_id,
        image_length=model.config.image_length,
    )
    try:
        return asked(max_tokens=limits.prompt_goal)
    except PromptError:  # the bare question leaves less room than wished: it goes alone, and what is left must do
        pictures = sum(turn.pictures for turn in turns)
        alone = asked(turns=[replace(turns[-1], pictures=pictures)], max_tokens=limits.total - 1)
        return replace(alone, dropped_turns=len(turns) - 1)


def start_reply(
    model: Any,
    tokenizer: ChatGLMTokenizer,
    turns: list[Turn],
    image_embeds: Tensor | None,
    language: Language,
    **arguments: Any,
) -> tuple[StreamingReply, int]:
    """Starts the answer to the last of `turns`; returns it and how many of the oldest turns had to stay out.

    `arguments` are transformers' sampling arguments, `preset` (see network/sampling.py), `invalid_slices` and `seed`.

    Raises:
        PromptError: the question alone does not fit into the model.
    """
    settings = generation_settings(model, **arguments)
    prompt = ask_prompt(model, tokenizer, turns, language, settings.limits)
    return StreamingReply(model, tokenizer, prompt.input_ids, image_embeds, settings), prompt.dropped_turns
