"""The GLM (network/glm.py) built from vLLM's parallel layers.

In: embeddings [rows, hidden] and positions [rows]; the rows of all requests are concatenated. Out: hidden states [rows,
hidden]. Modules have the names of network/glm.py, so a checkpoint loads without renaming; the rotary embedding is
imported from there. Under tensor parallelism each process holds some of the heads. The fused rows are query, key, value
of the first head, then of the second, so they are split between heads.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from ..network.configuration import VisualGLMConfig
from ..network.glm import query_key_value_of
from ..network.rotary import rotary_cos_sin
from .attention import prefix_backend, prefix_length_per_row, zero_new_blocks
from .prefix_split import rotary_positions


class ParallelAttention(nn.Module):
    """`GLMAttention` over vLLM's paged KV cache."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config: VisualGLMConfig = vllm_config.model_config.hf_config
        quantization = vllm_config.quant_config
        size, heads = config.hidden_size, config.num_attention_heads // get_tensor_model_parallel_world_size()
        self.head_dim = size // config.num_attention_heads
        self.query_key_value = ColumnParallelLinear(
            size, 3 * size, quant_config=quantization, prefix=f"{prefix}.query_key_value"
        )
        self.dense = RowParallelLinear(size, size, quant_config=quantization, prefix=f"{prefix}.dense")
        self.attn = Attention(
            heads,
            self.head_dim,
            self.head_dim**-0.5,
            cache_config=vllm_config.cache_config,
            quant_config=quantization,
            prefix=f"{prefix}.attn",
            attn_backend=prefix_backend(),
        )

    def forward(self, hidden_states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[rows, hidden] -> [rows, hidden]; for `rotary` each row is a batch entry of one token."""
        fused = self.query_key_value(hidden_states)[0]
        query, key, value = query_key_value_of(fused.unflatten(-1, (-1, 1, 3 * self.head_dim)), rotary)
        return self.dense(self.attn(query.flatten(1), key.flatten(1), value.flatten(1)))[0]


class ParallelFeedForward(nn.Module):
    """`GLMFeedForward` with parallel linear layers."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config: VisualGLMConfig = vllm_config.model_config.hf_config
        quantization, size, inner = vllm_config.quant_config, config.hidden_size, config.inner_hidden_size
        self.dense_h_to_4h = ColumnParallelLinear(
            size, inner, quant_config=quantization, prefix=f"{prefix}.dense_h_to_4h"
        )
        self.dense_4h_to_h = RowParallelLinear(inner, size, quant_config=quantization, prefix=f"{prefix}.dense_4h_to_h")

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]."""
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden_states)[0], approximate="tanh"))[0]


class ParallelBlock(nn.Module):
    """`GLMBlock`: the residual is the normalised tensor, times `sqrt(2 * layers)`."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config: VisualGLMConfig = vllm_config.model_config.hf_config
        self.alpha = math.sqrt(2 * config.num_layers)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = ParallelAttention(vllm_config, f"{prefix}.attention")
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = ParallelFeedForward(vllm_config, f"{prefix}.mlp")

    def forward(self, hidden_states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[rows, hidden] -> [rows, hidden]."""
        normed = self.input_layernorm(hidden_states)
        normed = self.post_attention_layernorm(normed * self.alpha + self.attention(normed, rotary))
        return normed * self.alpha + self.mlp(normed)


class ParallelGLM(nn.Module):
    """`GLM`, the language model without its LM head."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config: VisualGLMConfig = vllm_config.model_config.hf_config
        self.config = config
        self.word_embeddings = VocabParallelEmbedding(
            config.vocab_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.word_embeddings",
        )
        self.layers = nn.ModuleList(
            ParallelBlock(vllm_config, f"{prefix}.layers.{index}") for index in range(config.num_layers)
        )
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.first_layer = f"{prefix}.layers.0.attention.attn"

    def forward(self, inputs_embeds: Tensor, positions: Tensor) -> Tensor:
        """[rows, hidden] and positions [rows] -> [rows, hidden]."""
        zero_new_blocks()
        channels = rotary_positions(positions, prefix_length_per_row(self.first_layer, positions))
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        rotary = rotary_cos_sin(channels, head_dim, self.config.rotary_frequencies, inputs_embeds.dtype)
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(hidden_states, rotary)
        return self.final_layernorm(hidden_states)
