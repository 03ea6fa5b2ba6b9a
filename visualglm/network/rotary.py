"""Derive GLM's rotary positions and prefix lengths from `input_ids`.

The file also computes the rotation of queries and keys.

Source: `get_position_ids`, `get_masks` and `RotaryEmbedding` of upstream's `modeling_chatglm.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import PromptError
from .configuration import RotaryFrequencies, VisualGLMConfig

ROTARY_BASE = 10000.0


class PrefixPositions(NamedTuple):
    """Positions of a prompt: `rotary` [B, 2, T], `prefix_lengths` [B] (index of `<sop>`, pads included)."""

    rotary: Tensor
    prefix_lengths: Tensor


@dataclass
class PrefixState:
    """End of the prompt in a cache: `rotary` [B, 2] of the last token, and the cache's `length` at that time.

    It is mutable and not a tuple, because transformers' exporters assign to its fields.
    """

    rotary: Tensor
    length: Any

    def positions_behind(self, past_length: Any, new_tokens: int) -> Tensor:
        """Compute rotary positions [B, 2, T] of tokens that follow `past_length` cached ones.

        A static cache's lengths are tensors. They are not checked, because reading them synchronizes with the device.

        Raises:
            PromptError: the cache was cut within the prompt.
        """
        behind = past_length - self.length
        if isinstance(behind, int) and behind < 0 and bool((self.rotary[:, 1] + behind < 0).any()):
            raise PromptError("The cache was cut within the prompt. Give rotary_positions or an empty cache.")
        steps = behind + torch.arange(1, new_tokens + 1, device=self.rotary.device)
        return torch.stack([self.rotary[:, :1].expand(-1, new_tokens), self.rotary[:, 1:] + steps], dim=1)

    def check_rows(self, rows: int) -> None:
        """Raise `PromptError` if the number of rows changed, so that rows and positions cannot be matched."""
        if len(self.rotary) not in (1, rows):
            raise PromptError(
                f"The cache holds {len(self.rotary)} prompts, but input_ids have {rows} rows. Give rotary_positions "
                "or an empty cache."
            )

    def remember(self, cache: Cache) -> None:
        """Store this as an attribute of the cache, which `copy.deepcopy` and transformers' exporters also copy."""
        cache.prompt_end = self  # type: ignore[attr-defined]

    @staticmethod
    def of(cache: Cache | None) -> PrefixState | None:
        """Return the state stored by `remember`, or None if the cache has no prompt."""
        return getattr(cache, "prompt_end", None)


def prefix_positions(
    input_ids: Tensor, attention_mask: Tensor | None, config: VisualGLMConfig, skip_gaps: bool = False
) -> PrefixPositions:
    """Derive both position channels and the prefix of each row from `input_ids` [B, T].

    Left padding is not counted, so a row has the same positions alone and in a batch. `attention_mask` [B, >= T] may be
    longer on the left (virtual tokens of prefix tuning). With `skip_gaps` other masked tokens are not counted either.

    Raises:
        PromptError: a row has no `<sop>`, or neither `[gMASK]` nor `[MASK]`.
    """
    prefix_lengths = _first(input_ids == config.bos_token_id)
    is_gmask = input_ids == config.gmask_token_id
    is_mask = torch.where(is_gmask.any(-1, keepdim=True), is_gmask, input_ids == config.mask_token_id)
    if not torch.compiler.is_compiling():
        _check_structure(input_ids, is_mask, config)
    index = torch.arange(input_ids.shape[-1], device=input_ids.device).expand_as(input_ids)
    pads = torch.zeros_like(index)
    if attention_mask is not None and attention_mask.dim() == 2:
        visible = attention_mask[:, -input_ids.shape[-1] :] != 0
        pads = (~visible).long().cumsum(-1) if skip_gaps else _first(visible)[:, None].expand_as(index)
    index_in_prefix = torch.where(index < prefix_lengths[:, None], index, _first(is_mask)[:, None])
    position = index_in_prefix - pads.gather(-1, index_in_prefix)
    block_position = (index - prefix_lengths[:, None] + 1).clamp(min=0)
    return PrefixPositions(torch.stack([position.clamp(min=0), block_position], dim=1), prefix_lengths)


def _first(flags: Tensor) -> Tensor:
    """Return the index of the first True of each row, [B, T] -> [B]; 0 if a row has no True."""
    return flags.int().argmax(-1)


def _check_structure(input_ids: Tensor, is_mask: Tensor, config: VisualGLMConfig) -> None:
    complete = (input_ids == config.bos_token_id).any(-1) & is_mask.any(-1)
    if not bool(complete.all()):
        rows = (~complete).nonzero().flatten().tolist()
        raise PromptError(
            f"Rows {rows} of input_ids lack <sop> ({config.bos_token_id}), or both [gMASK] ({config.gmask_token_id}) "
            f"and [MASK] ({config.mask_token_id}). A prompt ends with [gMASK] <sop>. Build it with the processor."
        )


def inverse_frequencies(head_dim: int, device: torch.device | None = None) -> Tensor:
    """Compute the unrounded float32 frequencies [head_dim / 4] of each half of a head."""
    steps = torch.arange(0, head_dim // 2, 2, device=device, dtype=torch.float32)
    return 1.0 / ROTARY_BASE ** (steps / (head_dim // 2))


def rotary_cos_sin(
    positions: Tensor, head_dim: int, frequencies: RotaryFrequencies, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute cos and signed sin, float32 [B, 1, T, 1, 2, 2, head_dim / 4], from `positions` [B, 2, T].

    The inverse frequencies are rounded as in the checkpoint's source: to float16 (`half`), not at all (`exact`), or to
    `dtype` (`by_dtype`, sat). Source: upstream `modeling_chatglm.py` 123-160.
    """
    inv_freq = inverse_frequencies(head_dim, positions.device)
    if frequencies != "exact":
        inv_freq = inv_freq.to(torch.float16 if frequencies == "half" else dtype).float()
    angles = positions.transpose(1, 2)[..., None].float() * inv_freq
    cos, sin = angles.cos(), angles.sin()
    paired = torch.stack([cos, cos], dim=-2), torch.stack([-sin, sin], dim=-2)
    return paired[0][:, None, :, None], paired[1][:, None, :, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate both halves of each head of x [B, heads, T, 2, head_dim], which holds queries and keys."""
    pairs = x.float().unflatten(-1, (2, 2, -1))
    return (pairs * cos + pairs.flip(-2) * sin).flatten(-3).to(x.dtype)
