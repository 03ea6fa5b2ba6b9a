"""Ids with image slots and pictures -> logits, and everything `generate` needs to go on from there.

    pixel_values [P, 3, 224, 224] -- vision --> [P, 257, 1408] -- qformer --> [P, 32, 768] -- glm_proj --> [P, 32, 4096]
    input_ids [B, T] -- word_embeddings --> [B, T, 4096], slots filled with the pictures in order -- glm --> logits

Prefix, mask and both position channels come from `input_ids` alone. Knows nothing about files or text; its doors to the
checkpoints room open inside `from_pretrained`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from .configuration import QFormerConfig, VisionConfig
from .qformer import QFormer
from .vision import VisionTransformer


@dataclass
class VisualGLMOutput(ModelOutput):
    """What `forward` returns; a field is None unless asked for.

    `loss` []; `logits` [B, T, vocabulary]; `hidden_states`: layers + 1 of [B, T, hidden] (the inputs of the blocks,
    then the last norm's output); `attentions`: per block [B, heads, T, keys]; `image_embeds` [P, image_length, hidden];
    `cross_attentions`: per crossing Q-Former layer [P, heads, queries, patches + 1].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_embeds: Tensor | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class ImageEncoder(nn.Module):
    """Picture -> the vectors that fill its slots: ViT, Q-Former, projection."""

    def __init__(self, vision: VisionConfig, qformer: QFormerConfig, hidden_size: int) -> None:
        super().__init__()
        self.vit = VisionTransformer(vision)
        self.qformer = QFormer(qformer)
        self.glm_proj = nn.Linear(qformer.hidden_size, hidden_size)

    def forward(
        self, pixel_values: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """[P, 3, H, W] -> [P, image_length, hidden] and, if asked, the Q-Former's cross-attentions."""
        queries, attentions = self.qformer(self.vit(pixel_values), output_attentions)
        return self.glm_proj(queries), attentions


def _kept_positions(hidden_states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The last positions, or those at these indices, of [B, T, hidden]; 0 keeps all.

    A slice is copied: it has the strides of the whole, even where it is one row, and with them torch's CPU product
    would copy the head's weight, 1 GB at full size, for every prompt.
    """
    if isinstance(logits_to_keep, Tensor):
        return hidden_states[:, logits_to_keep]
    if logits_to_keep == 0:
        return hidden_states
    return hidden_states[:, -logits_to_keep:].clone(memory_format=torch.contiguous_format)
