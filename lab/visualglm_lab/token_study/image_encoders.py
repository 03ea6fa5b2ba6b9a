"""Encoders that replace the image encoder of the model, with its interface.

    pixel_values [P, 3, S, S] --> embeddings of the image's placeholder tokens [P, tokens, hidden], and None

The condition `queries` keeps the model's own encoder: ViT, Q-Former, linear layer.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from visualglm.network.configuration import VisualGLMConfig
from visualglm.network.vision import VisionTransformer


class PatchEncoder(nn.Module):
    """All outputs of a ViT, the class token included, through a linear layer."""

    def __init__(self, vit: VisionTransformer, config: VisualGLMConfig) -> None:
        super().__init__()
        self.vit = vit
        self.glm_proj = nn.Linear(config.vision.hidden_size, config.hidden_size)
        nn.init.normal_(self.glm_proj.weight, std=config.initializer_range)  # as the model's own layers
        nn.init.zeros_(self.glm_proj.bias)

    def forward(self, pixel_values: Tensor, output_attentions: bool = False) -> tuple[Tensor, None]:
        """[P, 3, S, S] -> [P, 1 + patches, hidden]."""
        return self.glm_proj(self.vit(pixel_values)), None


class CodeEncoder(nn.Module):
    """Codes of a frozen tokenizer, as words of the vocabulary from the id `first` on.

    It has no weights of its own: `encode` is the tokenizer's, and `embed` looks words up in the language model's table,
    which trains with it.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], embed: Callable[[Tensor], Tensor], first: int) -> None:
        super().__init__()
        self.encode, self.embed, self.first = encode, embed, first

    def forward(self, pixel_values: Tensor, output_attentions: bool = False) -> tuple[Tensor, None]:
        """[P, 3, S, S] -> [P, tokens, hidden]."""
        return self.embed(self.first + self.encode(pixel_values)), None
