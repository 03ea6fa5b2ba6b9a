"""Encoders that replace the image encoder of the model, with its interface.

    pixel_values [P, 3, S, S] --> embeddings of the image's placeholder tokens [P, tokens, hidden], and None

The condition `queries` keeps the model's own encoder: ViT, Q-Former, linear layer. No condition trains its ViT.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from visualglm.network.configuration import VisualGLMConfig
from visualglm.network.vision import VisionTransformer, ViTBlock

from .vq_tokenizer import Codebook


class PatchEncoder(nn.Module):
    """All outputs of a ViT, the class token included, through `blocks` more ViT blocks and a linear layer."""

    def __init__(self, vit: VisionTransformer, config: VisualGLMConfig, blocks: int) -> None:
        super().__init__()
        self.vit = vit
        self.blocks = nn.Sequential(*(ViTBlock(config.vision) for _ in range(blocks)))
        self.glm_proj = nn.Linear(config.vision.hidden_size, config.hidden_size)
        nn.init.normal_(self.glm_proj.weight, std=config.initializer_range)  # as the model's own layers
        nn.init.zeros_(self.glm_proj.bias)

    def forward(self, pixel_values: Tensor, output_attentions: bool = False) -> tuple[Tensor, None]:
        """[P, 3, S, S] -> [P, 1 + patches, hidden]."""
        return self.glm_proj(self.blocks(self.vit(pixel_values))), None


class PatchCodes(nn.Module):
    """Outputs of a ViT for the patches, each replaced by the number of the nearest code of a codebook."""

    def __init__(self, vit: VisionTransformer, codes: int) -> None:
        super().__init__()
        self.vit = vit
        self.codebook = Codebook(codes, vit.config.hidden_size)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """[P, 3, S, S] -> code ids [P, patches]."""
        return self.codebook.nearest(self._features(pixel_values)).view(len(pixel_values), -1)

    def learn(self, pixel_values: Tensor) -> None:
        """Move the codes towards the averages of the outputs that are nearest to them."""
        features = self._features(pixel_values)
        self.codebook.update(features, self.codebook.nearest(features))

    @torch.no_grad()
    def _features(self, pixel_values: Tensor) -> Tensor:
        """[P, 3, S, S] -> [P * patches, hidden]."""
        features: Tensor = self.vit(pixel_values)
        return features[:, 1:].flatten(0, 1)


class CodeEncoder(nn.Module):
    """Codes of a frozen encoder, as words of the vocabulary from the id `first` on.

    It has no weights of its own: `encode` is the frozen encoder's, and `embed` looks words up in the language model's
    table, which trains with it.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], embed: Callable[[Tensor], Tensor], first: int) -> None:
        super().__init__()
        self.encode, self.embed, self.first = encode, embed, first

    def forward(self, pixel_values: Tensor, output_attentions: bool = False) -> tuple[Tensor, None]:
        """[P, 3, S, S] -> [P, tokens, hidden]."""
        return self.embed(self.first + self.encode(pixel_values)), None
