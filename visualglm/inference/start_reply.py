"""Build the prompt of a chat, dropping the oldest turns that do not fit; start its answer, or make it a batch's row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..errors import ContextLengthError
from ..network.visualglm import VisualGLMNetwork
from ..preprocessing.chinese_token_filter import forbid_chinese_tokens
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.prompt import Language, Prompt, Turn, language_of, merge_dropped
from .generation_settings import LengthLimits, generation_settings
from .json_grammar import compile_json_schema
from .streaming_reply import StreamingReply
from .text_row import TextRow


def ask_prompt(processor: VisualGLMProcessor, turns: list[Turn], language: Language, limits: LengthLimits) -> Prompt:
    """Build the prompt that asks the last of `turns`; drop the oldest turns if the answer would have no room.

    Raises:
        PromptError: the question is blank.
        ContextLengthError: the question alone does not fit into the model.
    """
    try:
        return processor.build_prompt(turns, language, limits.prompt_goal)
    except ContextLengthError:  # even without history the answer gets less than the reserve, so send the question alone
        bare, spoken = merge_dropped(turns, len(turns) - 1), language_of(turns[-1].question)
        alone = processor.build_prompt([bare], spoken if language == "auto" else language, limits.total - 1)
        return replace(alone, dropped_turns=len(turns) - 1)


def start_reply(
    model: VisualGLMNetwork,
    processor: VisualGLMProcessor,
    turns: list[Turn],
    image_embeds: Tensor | None,
    language: Language,
    **arguments: Any,
) -> tuple[StreamingReply, int]:
    """Start the answer to the last of `turns`; return it and the number of dropped turns.

    `arguments` are transformers' sampling arguments, `preset` (see network/sampling.py), `invalid_slices`, `seed`
    and `json_schema` (see json_grammar.py).

    Raises:
        PromptError: the question alone does not fit into the model.
    """
    settings = generation_settings(model, **compile_json_schema(processor.tokenizer, arguments))
    prompt = ask_prompt(processor, turns, language, settings.limits)
    return StreamingReply(model, processor.tokenizer, prompt.input_ids, image_embeds, settings), prompt.dropped_turns


def start_row(
    model: VisualGLMNetwork,
    processor: VisualGLMProcessor,
    turns: list[Turn],
    image_embeds: Tensor | None,
    language: Language,
    **arguments: Any,
) -> TextRow:
    """Build the row for `generate_batch` that answers the last of `turns`; `arguments` as `start_reply`.

    Raises:
        PromptError: the question alone does not fit into the model.
    """
    arguments = forbid_chinese_tokens(processor.tokenizer, language, arguments)
    settings = generation_settings(model, **compile_json_schema(processor.tokenizer, arguments))
    prompt = ask_prompt(processor, turns, language, settings.limits)
    return TextRow(processor.tokenizer, prompt.input_ids, image_embeds, settings)
