"""Derive GLM's two rotary position channels and prefix lengths from `input_ids`, and rotate queries and keys.

Source: `get_position_ids`, `get_masks` and `RotaryEmbedding` of upstream's `modeling_chatglm.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import PromptError
from .configuration import RotaryFrequencies, VisualGLMConfig

ROTARY_BASE = 10000.0


class PrefixPositions(NamedTuple):
    """What the ids say about structure: `rotary` [B, 2, T], `prefix_lengths` [B] (index of `<sop>`, pads included)."""

    rotary: Tensor
    prefix_lengths: Tensor


class PrefixState(NamedTuple):
    """What a cache remembers of its prompt: `rotary` [B, 2] of the last token, and how many tokens lay there then."""

    rotary: Tensor
    length: Any

    def positions_behind(self, past_length: Any, new_tokens: int) -> Tensor:
        """Rotary positions [B, 2, T] of tokens that follow `past_length` others; from `<sop>` on they follow from this.

        A static cache's lengths are tensors, and are not looked at: that would wait for the device.

        Raises:
            PromptError: the cache was cut within the prompt.
        """
        behind = past_length - self.length
        if isinstance(behind, int) and behind < 0 and bool((self.rotary[:, 1] + behind < 1).any()):
            raise PromptError("the cache was cut within the prompt: give rotary_positions, or read the prompt anew.")
        steps = behind + torch.arange(1, new_tokens + 1, device=self.rotary.device)
        return torch.stack([self.rotary[:, :1].expand(-1, new_tokens), self.rotary[:, 1:] + steps], dim=1)

    def check_rows(self, rows: int) -> None:
        """Raise `PromptError` where the rows were chosen or repeated since, so that nobody knows which are which."""
        if len(self.rotary) not in (1, rows):
            raise PromptError(
                f"the cache has read {len(self.rotary)} prompts and there are {rows} rows now: give rotary_positions, "
                "or read the prompts anew."
            )

    def remember(self, cache: Cache) -> None:
        """Keep this with the cache, among its own attributes: what copies or exports a cache takes those along.

        (`copy.deepcopy` and transformers' exporters do; a table beside the caches would forget what is copied.)
        """
        cache.prompt_end = self  # type: ignore[attr-defined]

    @staticmethod
    def of(cache: Cache | None) -> PrefixState | None:
        """What the cache remembers of its prompt; None where it has read none."""
        return getattr(cache, "prompt_end", None)


def prefix_positions(input_ids: Tensor, attention_mask: Tensor | None, config: VisualGLMConfig) -> PrefixPositions:
    """Both position channels and the prefix of each row [B, T], from the ids alone.

    Left padding is not counted, so a row has the same positions alone and in a batch. `attention_mask` [B, >= T] may be
    longer on the left (virtual tokens of prefix tuning).

    Raises:
        PromptError: a row has no `<sop>`, or neither `[gMASK]` nor `[MASK]`.
    """
    prefix_lengths = _first(input_ids == config.bos_token_id)
    is_gmask = input_ids == config.gmask_token_id
    is_mask = torch.where(is_gmask.any(-1, keepdim=True), is_gmask, input_ids == config.mask_token_id)
    if not torch.compiler.is_compiling():
        _check_structure(input_ids, is_mask, config)
    index = torch.arange(input_ids.shape[-1], device=input_ids.device).expand_as(input_ids)
    pads = torch.zeros_like(prefix_lengths)
    if attention_mask is not None and attention_mask.dim() == 2:
        pads = _first(attention_mask[:, -input_ids.shape[-1] :] != 0)
    in_prefix = index < prefix_lengths[:, None]
    position = torch.where(in_prefix, index, _first(is_mask)[:, None]) - pads[:, None]
    block_position = (index - prefix_lengths[:, None] + 1).clamp(min=0)
    return PrefixPositions(torch.stack([position.clamp(min=0), block_position], dim=1), prefix_lengths)


def _first(flags: Tensor) -> Tensor:
    """Index of the first True of each row [B, T] -> [B]; 0 where there is none."""
    return flags.int().argmax(-1)


def _check_structure(input_ids: Tensor, is_mask: Tensor, config: VisualGLMConfig) -> None:
    complete = (input_ids == config.bos_token_id).any(-1) & is_mask.any(-1)
    if not bool(complete.all()):
        rows = (~complete).nonzero().flatten().tolist()
        raise PromptError(
            f"rows {rows} of input_ids lack <sop> ({config.bos_token_id}), or both [gMASK] ({config.gmask_token_id}) "
            f"and [MASK] ({config.mask_token_id}): a prompt ends with [gMASK] <sop>, so build it with the processor."
        )


def inverse_frequencies(head_dim: int, device: torch.device | None = None) -> Tensor:
    """[head_dim / 4] float32, not rounded: each half of a head is a rotary embedding of its own."""
    steps = torch.arange(0, head_dim // 2, 2, device=device, dtype=torch.float32)
    return 1.0 / ROTARY_BASE ** (steps / (head_dim // 2))


def rotary_cos_sin(
    positions: Tensor, head_dim: int, frequencies: RotaryFrequencies, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos, and sin with the signs of a rotation: float32, [B, 1, T, 1, 2, 2, head_dim / 4], for the halves of a head.

    `positions` is [B, 2, T]. The inverse frequencies are rounded as the checkpoint's source did: to float16 (`half`),
    not at all (`exact`), to `dtype` (`by_dtype`, sat). Source: upstream `modeling_chatglm.py` 123-160.
    """
    inv_freq = inverse_frequencies(head_dim, positions.device)
    if frequencies != "exact":
        inv_freq = inv_freq.to(torch.float16 if frequencies == "half" else dtype).float()
    angles = positions.transpose(1, 2)[..., None].float() * inv_freq
    cos, sin = angles.cos(), angles.sin()
    paired = torch.stack([cos, cos], dim=-2), torch.stack([-sin, sin], dim=-2)
    return paired[0][:, None, :, None], paired[1][:, None, :, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates both halves of each head: x [B, heads, T, 2, head_dim], queries beside keys; see `rotary_cos_sin`."""
    pairs = x.float().unflatten(-1, (2, 2, -1))
    return (pairs * cos + pairs.flip(-2) * sin).flatten(-3).to(x.dtype)
