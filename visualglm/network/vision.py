"""Vision encoder (EVA-CLIP ViT-g): pixels to patch features.

    pixel_values [P, 3, 224, 224] -- patch_embed, class token, positions --> [P, 257, 1408]
        -- 39 pre-LN blocks --> [P, 257, 1408] -- ln_vision --> [P, 257, 1408], class token included

P is the number of images. A configuration may add a convolutional stem (`stem.py`), which the 6B does not have. Module
names are upstream's tensor names, so a checkpoint loads without renaming. Source: SwissArmyTransformer `vit_model.py`,
upstream `visual.py`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, initialization
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import ImageError
from .attention import SelfAttention
from .configuration import VisionConfig
from .stem import POOLED_CHANNELS, ConvolutionalStem, map_channels, maps_per_patch

BEHIND_STEM = ("concept_head", "class_proj", "certainty")
"""Modules of the image encoder that tell the language model what a stem sees."""
CERTAINTY_STEPS = 3


class FeedForward(nn.Module):
    """Linear, exact (erf) GELU, Linear: the MLP of the ViT and of the Q-Former."""

    def __init__(self, hidden_size: int, inner_hidden_size: int) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(hidden_size, inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(inner_hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden_states)))


def embed_rows(embedding: nn.Module, rows: int, device: torch.device) -> Tensor:
    """Return the first rows of an embedding, [rows, hidden] on `device`.

    The module is called, because accelerate's offloading and DeepSpeed's ZeRO-3 load weights only for a call.
    """
    return embedding(torch.arange(rows, device=device)).to(device)


class ViTBlock(GradientCheckpointingLayer):
    """Pre-LN block: x += attention(LN(x)); x += mlp(LN(x))."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = SelfAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = FeedForward(config.hidden_size, config.inner_hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[P, N, hidden] -> [P, N, hidden]."""
        hidden_states = hidden_states + self.attention(self.input_layernorm(hidden_states))
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class ViTTransformer(nn.Module):
    """Class token (`word_embeddings`, one row), position embeddings and blocks."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(1, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.num_positions, config.hidden_size)
        self.layers = nn.ModuleList(ViTBlock(config) for _ in range(config.num_layers))

    def forward(self, patches: Tensor, added: Tensor | None = None) -> Tensor:
        """Patch embeddings [P, N, hidden] -> [P, 1 + N, hidden], before the last layer norm.

        `added` [P, hidden] is added to the class token.
        """
        class_token = embed_rows(self.word_embeddings, 1, patches.device).expand(patches.shape[0], -1, -1)
        if added is not None:
            class_token = class_token + added[:, None]
        hidden_states = torch.cat([class_token, patches], dim=1)
        hidden_states = hidden_states + embed_rows(self.position_embeddings, hidden_states.shape[1], patches.device)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class PatchEmbed(nn.Module):
    """Convolution whose stride is its kernel size: one vector per patch, row by row."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, config.patch_size, stride=config.patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[P, 3, H, W] -> [P, (H / patch) * (W / patch), hidden]."""
        weight = self.proj.weight
        pixel_values = pixel_values.to(weight.dtype if weight.is_meta else weight)  # type: ignore[call-overload]
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


class ZeroLinear(nn.Linear):
    """Linear layer that begins at zero."""


@torch.no_grad()
def fill_with_zeros(module: nn.Module) -> bool:
    """Initialize a `ZeroLinear`; return False for any other module."""
    if isinstance(module, ZeroLinear):
        initialization.zeros_(module.weight)
        initialization.zeros_(module.bias)
    return isinstance(module, ZeroLinear)


class StemEmbed(PatchEmbed):
    """Patch embedding with a convolutional stem: its maps are added to the patches, its pooled features to the class.

    The added linear layers begin at zero, so a stem leaves a trained model's answers as they are until it is trained.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        assert config.stem is not None
        self.patch_size = config.patch_size
        self.stem = ConvolutionalStem(config.stem)
        self.map_proj = ZeroLinear(map_channels(config.stem, config.patch_size), config.hidden_size)
        self.pooled_proj = ZeroLinear(POOLED_CHANNELS, config.hidden_size)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Embed the patches, and return what the class token gains and the stem's pooled features.

        [P, 3, H, W] -> [P, (H / patch) * (W / patch), hidden], [P, hidden], [P, 1280].
        """
        patches = super().forward(pixel_values)
        maps, pooled = self.stem(pixel_values.to(patches))
        near = maps_per_patch(maps, self.patch_size, pixel_values.shape[-1] // self.patch_size)
        return patches + self.map_proj(near), self.pooled_proj(pooled), pooled


class ConceptHead(nn.Module):
    """A classifier of `concepts` on the stem's pooled features, whose probabilities choose what is added.

    Its output begins at zero. Besides the concepts, one class stands for anything else; it adds nothing but the bias.
    """

    def __init__(self, concepts: int, hidden_size: int) -> None:
        super().__init__()
        self.down = nn.Linear(POOLED_CHANNELS, hidden_size)
        self.classifier = nn.Linear(hidden_size, concepts + 1)
        self.proj = ZeroLinear(concepts + 1, hidden_size)

    def forward(self, pooled: Tensor) -> Tensor:
        """[P, 1280] -> [P, hidden]."""
        return self.proj(self.probabilities(pooled).to(pooled))

    def probabilities(self, pooled: Tensor) -> Tensor:
        """Compute the probabilities [P, concepts + 1], float32; the last is that of anything else."""
        return self.classifier(self.down(pooled)).float().softmax(-1)


class CertaintyEmbed(nn.Module):
    """Adds to a vector how long it is: a few soft steps of its length, each with a direction of its own.

    What `class_proj` and `ConceptHead` add is the longer the more probable is what it names, and a language model reads
    a direction more exactly than a length. Its output begins at zero.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.steps = nn.Linear(1, CERTAINTY_STEPS)
        self.proj = ZeroLinear(CERTAINTY_STEPS, hidden_size)

    def forward(self, added: Tensor) -> Tensor:
        """[P, N, hidden] -> [P, N, hidden]."""
        length = torch.linalg.vector_norm(added, dim=-1, keepdim=True, dtype=torch.float32).to(added.dtype)
        return added + self.proj(self.steps(length).sigmoid())


def is_of_stem(name: str) -> bool:
    """Return True for the full name of a parameter that only a model with a stem has."""
    embed = (f".patch_embedding.{part}." in name for part in ("stem", "map_proj", "pooled_proj"))
    return any(embed) or any(f"image_encoder.{part}." in name for part in BEHIND_STEM)


def is_frozen(name: str) -> bool:
    """Return True for the full name of a stem's own parameter, which no training changes."""
    return ".patch_embedding.stem." in name


def freeze_stem(model: nn.Module) -> None:
    """Exclude a stem's own parameters from training; transformers' loader makes every parameter trainable."""
    for name, parameter in model.named_parameters():
        if is_frozen(name):
            parameter.requires_grad_(False)


class ClassHead(nn.Module):
    """Final layer norm, named after upstream's `cls` mixin."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.ln_vision = nn.LayerNorm(config.hidden_size, eps=config.output_layernorm_epsilon)


class VisionTransformer(PreTrainedModel):
    """The complete vision encoder; the module docstring has the shapes."""

    config_class = VisionConfig
    config: VisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["ViTBlock", "StemEmbed"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.transformer = ViTTransformer(config)
        embed = PatchEmbed(config) if config.stem is None else StemEmbed(config)
        self.mixins = nn.ModuleDict({"patch_embedding": embed, "cls": ClassHead(config)})
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if not fill_with_zeros(module):
            super()._init_weights(module)

    def forward(self, pixel_values: Tensor, with_pooled: bool = False) -> Any:
        """[P, 3, image_size, image_size] -> [P, 1 + patches, hidden].

        `with_pooled` returns the stem's pooled features, too: [P, 1280], or None without a stem.

        Raises:
            ImageError: the images do not have the size of the position embeddings.
        """
        size = self.config.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[-2:]) != (size, size):
            raise ImageError(
                f"pixel_values have shape {list(pixel_values.shape)}, but the model needs [images, 3, {size}, {size}]. "
                "Let the processor resize the images, or call model.resize_image_size(N) for another resolution."
            )
        embedded = self.mixins["patch_embedding"](pixel_values)
        patches, added, pooled = (embedded, None, None) if self.config.stem is None else embedded
        hidden_states = cast(ClassHead, self.mixins["cls"]).ln_vision(self.transformer(patches, added))
        return (hidden_states, pooled) if with_pooled else hidden_states

    @torch.no_grad()
    def resize_positions(self, image_size: int) -> None:
        """Interpolate the position embeddings to another `image_size`: bicubic over the patches, class token kept.

        Raises:
            ImageError: `image_size` is not a multiple of the patch size.
        """
        if image_size <= 0 or image_size % self.config.patch_size:
            raise ImageError(
                f"image_size {image_size} is not a positive multiple of the patch size. Choose a multiple of "
                f"{self.config.patch_size}."
            )
        table = self.transformer.position_embeddings.weight
        old_side, new_side = (side // self.config.patch_size for side in (self.config.image_size, image_size))
        grid = table[1:].reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2).float()
        grid = F.interpolate(grid, size=(new_side, new_side), mode="bicubic", align_corners=False)
        patches = grid.permute(0, 2, 3, 1).reshape(new_side * new_side, -1).to(table.dtype)
        resized = nn.Embedding(1 + new_side * new_side, table.shape[1], device=table.device, dtype=table.dtype)
        resized.weight.copy_(torch.cat([table[:1], patches]))
        resized.weight.requires_grad_(table.requires_grad)
        self.transformer.position_embeddings = resized
        self.config.image_size = image_size
