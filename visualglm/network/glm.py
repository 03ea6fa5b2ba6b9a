"""Language model without its head (ChatGLM-6B v1).

    input_ids [B, T] -- prefix_positions --> rotary positions [B, 2, T] and prefix lengths [B]
    inputs_embeds [B, T, 4096] -- 28 blocks, prefix-LM mask, 2-D rotary, cache --> final_layernorm --> [B, T, 4096]

A prompt ends with `[gMASK] <sop>`. Tokens before the first `<sop>` are the prefix, whose attention is bidirectional;
from `<sop>` on the mask is causal. The first half of every head is rotated by the position, which stays at the mask
token's index from `<sop>` on. The second half is rotated by the block position, which is 0 in the prefix and then
counts 1, 2, 3. Module names are upstream's tensor names. Source: upstream `modeling_chatglm.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import attend
from .configuration import VisualGLMConfig
from .rotary import rotary_cos_sin, rotate


def query_key_value_of(fused: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Split fused outputs [B, heads, T, 3 * head_dim] into rotated query, rotated key and value [.., head_dim]."""
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
        """[B, T, hidden] -> [B, T, hidden], and probabilities [B, heads, T, keys] if the kernel returns them."""
        # -1 instead of the configured head count: under tensor parallelism a process has only some of the heads
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
        """[B, T, hidden] -> [B, T, hidden], and probabilities [B, heads, T, keys] if the kernel returns them."""
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
    """The language model without its head; the module docstring has the shapes.

    The plans for parallel processes are class attributes, where transformers looks for those of a submodule.
    """

    _tp_plan = VisualGLMConfig.base_model_tp_plan
    _fsdp_plan = VisualGLMConfig.base_model_fsdp_plan
    _pp_plan = None

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
        """Run all blocks and the final norm.

        `inputs_embeds` is [B, T, hidden], `rotary_positions` [B, 2, T], `attention_mask` in the kernel's own form.
        """
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
