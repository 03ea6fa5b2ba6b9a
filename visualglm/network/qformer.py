"""Q-Former (BLIP-2): patch features to one vector per query.

    queries [P, 32, 768] -- 12 layers; every second one cross-attends to patch features [P, 1 + patches, 1408] -->
        final_layernorm --> [P, 32, 768]

P is the number of images. The layers are post-LN, written so that each layer begins with the norm that ends the layer
before it, and residuals start from the normalised tensor. Module names are upstream's tensor names. Source:
SwissArmyTransformer `transformer_defaults.py`, upstream `visual.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import CrossAttention, SelfAttention
from .configuration import QFormerConfig
from .vision import FeedForward, embed_rows


class QFormerLayer(GradientCheckpointingLayer):
    """Self-attention, optional cross-attention, MLP; each residual starts from the normalised tensor."""

    def __init__(self, config: QFormerConfig, has_cross_attention: bool) -> None:
        super().__init__()
        size, epsilon = config.hidden_size, config.layernorm_epsilon
        self.input_layernorm = nn.LayerNorm(size, eps=epsilon)
        self.attention = SelfAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(size, eps=epsilon)
        self.has_cross_attention = has_cross_attention
        if has_cross_attention:
            self.cross_attention = CrossAttention(config)
            self.post_cross_attention_layernorm = nn.LayerNorm(size, eps=epsilon)
        self.mlp = FeedForward(size, config.inner_hidden_size or 4 * size)

    def forward(
        self, hidden_states: Tensor, image_features: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """[P, Q, hidden] -> [P, Q, hidden] before the next layer's norm, and cross-attention probabilities or None."""
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states = self.post_attention_layernorm(hidden_states + self.attention(hidden_states))
        probabilities = None
        if self.has_cross_attention:
            crossed, probabilities = self.cross_attention(hidden_states, image_features, output_attentions)
            hidden_states = self.post_cross_attention_layernorm(hidden_states + crossed)
        return hidden_states + self.mlp(hidden_states), probabilities


class QFormerTransformer(nn.Module):
    """Learned queries (`word_embeddings`), layers and final norm."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        crossed = set(config.cross_attention_layers or ())
        self.word_embeddings = nn.Embedding(config.num_queries, config.hidden_size)
        self.layers = nn.ModuleList(QFormerLayer(config, index in crossed) for index in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)


class QFormer(PreTrainedModel):
    """The complete Q-Former; the module docstring has the shapes."""

    config_class = QFormerConfig
    config: QFormerConfig
    main_input_name = "image_features"
    supports_gradient_checkpointing = True
    _no_split_modules = ["QFormerLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__(config)
        self.transformer = QFormerTransformer(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.transformer.word_embeddings:
            initialization.normal_(self.transformer.word_embeddings.weight, std=self.config.query_initializer_range)
        else:
            super()._init_weights(module)

    def expand_queries(self, image_features: Tensor) -> Tensor:
        """Repeat the learned queries for each image of `image_features` [P, N, cross] -> [P, Q, hidden]."""
        queries = embed_rows(self.transformer.word_embeddings, self.config.num_queries, image_features.device)
        return queries.expand(image_features.shape[0], -1, -1)

    def forward(
        self, image_features: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """[P, N, cross] -> [P, Q, hidden]; with `output_attentions` also [P, heads, Q, N] per cross-attention layer."""
        hidden_states = self.expand_queries(image_features)
        attentions = []
        for layer in self.transformer.layers:
            hidden_states, probabilities = layer(hidden_states, image_features, output_attentions)
            if output_attentions and probabilities is not None:
                attentions.append(probabilities)
        output = self.transformer.final_layernorm(hidden_states)
        return output, tuple(attentions) if output_attentions else None
