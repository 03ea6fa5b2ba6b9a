"""Embeddings of prompt and picture [batch, tokens, hidden] -> hidden states, with cache (ChatGLM-6B v1).

    input_ids [B, T] -- prefix_positions --> rotary positions [B, 2, T] and prefix lengths [B]
    inputs_embeds [B, T, 4096] -- 28 blocks, prefix-LM mask, 2-D rotary, cache --> final_layernorm --> [B, T, 4096]

A prompt ends with `[gMASK] <sop>`: everything before the first `<sop>` is the prefix and sees itself in both
directions; from `<sop>` on the mask is causal. Every head is two halves: the first is rotated by the position, which
stands still at the mask token's index from `<sop>` on, the second by the block position, which is 0 in the prefix and
then counts 1, 2, 3. Module names are upstream's tensor names. Source: upstream `modeling_chatglm.py`. Knows nothing
about pictures or text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import PromptError
from .attention import attend
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


def query_key_value_of(fused: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Each head's fused outputs [B, heads, T, 3 * head_dim] -> rotated query, rotated key, value: [.., head_dim]."""
    head_dim = fused.shape[-1] // 3
    query_key, value = fused.split([2 * head_dim, head_dim], dim=-1)
    query, key = rotate(query_key.unflatten(-1, (2, -1)), *rotary).unbind(-2)
    return query, key, value


class GLMAttention(nn.Module):
    """Self-attention with cache; the fused rows are query, key, value of the first head, then of the second, ..."""

    def __init__(self, config: VisualGLMConfig, layer_index: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_index
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, T, hidden] -> [B, T, hidden] and, where the kernel has them, probabilities [B, heads, T, keys]."""
        # -1, not the config's head count: under tensor parallel a process holds some of the heads
        heads = self.query_key_value(hidden_states).unflatten(-1, (-1, 3 * self.head_dim)).transpose(1, 2)
        query, key, value = query_key_value_of(heads, rotary)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        context, probabilities = attend(self, query, key, value, attention_mask, output_attentions)
        return self.dense(context), probabilities


class GLMFeedForward(nn.Module):
    """Linear, tanh GELU, Linear (upstream calls it GLU, but nothing is gated)."""

    def __init__(self, config: VisualGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, T, hidden] -> [B, T, hidden]."""
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden_states), approximate="tanh"))


class GLMBlock(GradientCheckpointingLayer):
    """a = LN(h); m = LN(a * alpha + attention(a)); out = m * alpha + mlp(m), alpha = sqrt(2 * layers).

    The residual is the *normalised* tensor: this is neither pre-LN nor post-LN. Upstream's Hugging Face code has
    alpha fixed to 28 layers; sat uses the configuration's number, as we do (equal at full size).
    """

    def __init__(self, config: VisualGLMConfig, layer_index: int) -> None:
        super().__init__()
        self.alpha = math.sqrt(2 * config.num_layers)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = GLMAttention(config, layer_index)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = GLMFeedForward(config)

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, T, hidden] -> [B, T, hidden] and, where the kernel has them, probabilities [B, heads, T, keys]."""
        normed = self.input_layernorm(hidden_states)
        attended, probabilities = self.attention(normed, rotary, attention_mask, past_key_values, output_attentions)
        normed = self.post_attention_layernorm(normed * self.alpha + attended)
        return normed * self.alpha + self.mlp(normed), probabilities


class GLMOutput(NamedTuple):
    """`last_hidden_state` [B, T, hidden]; the tuples are None unless asked for."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor | None, ...] | None


class GLM(nn.Module):
    """The language model without its head; see the head of this file for the shapes."""

    def __init__(self, config: VisualGLMConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GLMBlock(config, index) for index in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def forward(
        self,
        inputs_embeds: Tensor,
        rotary_positions: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> GLMOutput:
        """`inputs_embeds` [B, T, hidden], `rotary_positions` [B, 2, T], `attention_mask` in the kernel's own form."""
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        frequencies = self.config.rotary_frequencies
        rotary = rotary_cos_sin(rotary_positions, head_dim, frequencies, inputs_embeds.dtype)
        hidden_states, states, attentions = inputs_embeds, [], []
        for layer in self.layers:
            states.append(hidden_states)
            hidden_states, probabilities = layer(
                hidden_states, rotary, attention_mask, past_key_values, output_attentions
            )
            attentions.append(probabilities)
        hidden_states = self.final_layernorm(hidden_states)
        return GLMOutput(
            hidden_states,
            (*states, hidden_states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )


@dataclass(frozen=True)
class MaskConfig:
    """All that transformers' mask maker asks a configuration: the kernel whose mask is wanted."""

    _attn_implementation: str


def prefix_mask(
    kernel: str,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    past_key_values: Cache | None,
    prefix_lengths: Tensor | None,
) -> Tensor | None:
    """The mask in the form that `kernel` reads: bidirectional below `prefix_lengths` [B], else causal.

    `prefix_lengths` None (decoding steps) is plain causal; a mask that is already 4-D is passed through.
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
