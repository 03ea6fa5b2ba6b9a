"""The prefix-LM mask: bidirectional in the prompt up to `<sop>`, causal from there on.

Source: upstream `modeling_chatglm.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask


@dataclass(frozen=True)
class MaskConfig:
    """The only field that transformers' `create_causal_mask` reads of a configuration."""

    _attn_implementation: str


def prefix_mask(
    kernel: str,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    past_key_values: Cache | None,
    prefix_lengths: Tensor | None,
) -> Tensor | None:
    """Build the attention mask in the form of `kernel`: bidirectional below `prefix_lengths` [B], else causal.

    With `prefix_lengths` None (decoding steps) the mask is causal. A 4-D `attention_mask` is returned as it is.
    """
    block_sequence_ids = None
    if prefix_lengths is not None:
        index = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
        block_sequence_ids = torch.where(index < prefix_lengths[:, None].to(index.device), 0, -1)
        past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
        block_sequence_ids = F.pad(block_sequence_ids, (int(past_length), 0), value=-1)
    return create_causal_mask(
        config=MaskConfig(kernel),
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        past_key_values=past_key_values,
        block_sequence_ids=block_sequence_ids,
        allow_is_causal_skip=inputs_embeds.shape[1] == 1,  # our attention never relies on a kernel's own causal flag
    )
