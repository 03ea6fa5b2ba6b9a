"""Check the inputs of `forward`, and recover ids from embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PromptError
from .configuration import VisualGLMConfig

UNKNOWN_ID = -1
BOUNDARIES = ("cu_seq_lens_q", "cu_seq_lens_k")
"""Arguments of packing collators with the first index of each example, and the number of tokens as last value."""


def structure_ids(inputs_embeds: Tensor, word_embeddings: nn.Module, config: VisualGLMConfig) -> Tensor:
    """Find the placeholder and mask tokens and `<sop>` in `inputs_embeds` [B, T, hidden]; other ids are -1.

    They are the rows equal to these tokens' word embeddings, as in transformers' image models. PEFT's prompt tuning
    passes embeddings only. Of `[gMASK]` and `<sop>` only the last ones count: virtual tokens may be copies of them.
    """
    known = (config.image_token_id, config.mask_token_id, config.gmask_token_id, config.bos_token_id)
    ids = torch.tensor(known, device=inputs_embeds.device)
    found = torch.full(inputs_embeds.shape[:2], UNKNOWN_ID, device=inputs_embeds.device)
    for token_id, row in zip(ids, word_embeddings(ids).detach().to(inputs_embeds), strict=True):
        equal = (inputs_embeds.detach() == row).all(-1)
        if token_id in (config.gmask_token_id, config.bos_token_id):
            equal &= equal.flip(-1).cumsum(-1).flip(-1) == 1
        found = torch.where(equal, token_id, found)
    return found


def resolve_ids(
    input_ids: Tensor | None, inputs_embeds: Tensor | None, word_embeddings: nn.Module, config: VisualGLMConfig
) -> Tensor:
    """Return `input_ids` [B, T], or the ids that `structure_ids` finds in `inputs_embeds` [B, T, hidden].

    Raises:
        PromptError: neither is given, or their shapes differ.
    """
    if inputs_embeds is None:
        if input_ids is None:
            raise PromptError("forward needs input_ids or inputs_embeds. Build input_ids with the processor.")
        return input_ids
    needed = [*(inputs_embeds.shape[:2] if input_ids is None else input_ids.shape), config.hidden_size]
    if list(inputs_embeds.shape) != needed:
        raise PromptError(
            f"inputs_embeds are {list(inputs_embeds.shape)}, but the model needs {needed}. Give one embedding per id."
        )
    return structure_ids(inputs_embeds, word_embeddings, config) if input_ids is None else input_ids


def check_one_example_per_row(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    arguments: Mapping[str, Any],
    pad_token_id: int,
) -> None:
    """Raise `PromptError` if a row holds several examples (`DataCollatorWithFlattening`).

    The prefix mask has one prefix per row, so an example would attend to the one before it.

    Args:
        position_ids: [B, T], or [B, 2, T] of upstream's tokenizer, whose second channel never decreases.
        arguments: other arguments of `forward`, which may hold a packing collator's boundaries.
    """
    packed = any(arguments.get(name) is not None and len(arguments[name]) > 2 for name in BOUNDARIES)
    index = arguments.get("seq_idx")
    packed = packed or (isinstance(index, Tensor) and bool((index != index[..., :1]).any()))
    if position_ids is not None and position_ids.shape[-1] == input_ids.shape[1] > 1:
        positions = position_ids[..., -1, :] if position_ids.dim() == 3 else position_ids
        real = input_ids != pad_token_id
        if attention_mask is not None and attention_mask.shape == input_ids.shape:
            real = attention_mask.bool()
        packed = packed or bool(((positions.diff() < 0) & real[:, 1:] & real[:, :-1]).any())
    if packed:
        raise PromptError(
            "A row holds several examples (its positions start again), which would attend to each other. "
            "Put each example in a row of its own, for example with a padding collator."
        )
