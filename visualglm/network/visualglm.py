"""The whole network: ids and images to logits.

    pixel_values [P, 3, 224, 224] -- vision --> [P, 257, 1408] -- qformer --> [P, 32, 768] -- glm_proj --> [P, 32, 4096]
    input_ids [B, T] -- word_embeddings --> [B, T, 4096], images at the placeholder tokens in order -- glm --> logits

P is the number of images. Prefix, mask and both position channels are derived from `input_ids`. `visualglm/model.py`
adds loading, saving and chat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import ModelOutput

from ..errors import PromptError
from .attention import attention_implementation
from .configuration import QFormerConfig, VisionConfig, VisualGLMConfig
from .generation_mixin import VisualGLMGenerationMixin
from .glm import GLM
from .hooks import HookableModel
from .input_checks import check_one_example_per_row, resolve_ids
from .kv_cache import is_empty, preallocate
from .prefix_mask import prefix_mask
from .prefix_tuning import PrefixMixin
from .qformer import QFormer
from .rotary import PrefixState, prefix_positions
from .stem import CLASSES
from .unsupported_generation import NoContinuousBatching
from .vision import CertaintyEmbed, ConceptHead, StemEmbed, VisionTransformer, ZeroLinear, fill_with_zeros


@dataclass
class VisualGLMOutput(ModelOutput):
    """Output of `forward`; optional fields are None unless requested.

    `loss` []; `logits` [B, T, vocabulary]; `hidden_states`: layers + 1 of [B, T, hidden] (the inputs of the blocks,
    then the last norm's output); `attentions`: per block [B, heads, T, keys]; `image_embeds` [P, image_length, hidden];
    `cross_attentions`: per Q-Former layer with cross-attention [P, heads, queries, patches + 1].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_embeds: Tensor | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class ImageEncoder(nn.Module):
    """ViT, Q-Former and projection: an image to the embeddings of its placeholder tokens.

    With a stem, what an image shows as a whole is added to the last two: the probabilities of `concepts` that a head
    reads in the stem's pooled features to the last, those of the stem's own classes to the other, and to both how
    certain they are.
    """

    def __init__(self, vision: VisionConfig, qformer: QFormerConfig, hidden_size: int) -> None:
        super().__init__()
        self.vit = VisionTransformer(vision)
        self.qformer = QFormer(qformer)
        self.glm_proj = nn.Linear(qformer.hidden_size, hidden_size)
        if vision.stem is not None:
            self.class_proj = ZeroLinear(CLASSES, hidden_size)
            self.concept_head = ConceptHead(vision.concepts, hidden_size)
            self.certainty = CertaintyEmbed(hidden_size)

    def forward(
        self, pixel_values: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """[P, 3, H, W] -> [P, image_length, hidden], and the Q-Former's cross-attentions if requested."""
        tokens, pooled = self.read(pixel_values)
        queries, attentions = self.qformer(tokens, output_attentions)
        return self.project(queries, pooled), attentions

    def read(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """[P, 3, H, W] -> the ViT output [P, 1 + patches, hidden], the pooled features [P, 1280] of a stem or None."""
        if self.vit.config.stem is None:
            return self.vit(pixel_values), None
        tokens, pooled = self.vit(pixel_values, with_pooled=True)
        return tokens, pooled

    def project(self, queries: Tensor, pooled: Tensor | None) -> Tensor:
        """Project queries [P, image_length, hidden] to image embeddings, and add what the stem tells."""
        image_embeds = self.glm_proj(queries)
        if pooled is None:
            return image_embeds
        classes = cast(StemEmbed, self.vit.mixins["patch_embedding"]).stem.classify(pooled)
        told = (self.class_proj(classes), self.concept_head(pooled))  # a device map may spread these modules
        added = self.certainty(torch.stack([x.to(image_embeds.device) for x in told], dim=1)).to(image_embeds.device)
        return torch.cat([image_embeds[:, :-2], image_embeds[:, -2:] + added], dim=1)


class VisualGLMNetwork(NoContinuousBatching, PreTrainedModel, VisualGLMGenerationMixin, GenerationMixin, HookableModel):
    """The whole network; the module docstring has the shapes. Its public subclass is in `visualglm/model.py`."""

    config_class = VisualGLMConfig
    config: VisualGLMConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["GLMBlock", "ViTBlock", "StemEmbed", "QFormerLayer"]
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _skip_keys_device_placement = ["past_key_values"]
    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: VisualGLMConfig) -> None:
        super().__init__(config)
        self.image_encoder = ImageEncoder(config.vision, config.qformer, config.hidden_size)
        self.transformer = GLM(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mixins = nn.ModuleDict()
        if config.prefix_length:
            self.add_mixin("ptuning", PrefixMixin(config))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if not fill_with_zeros(module):
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's word embeddings [vocabulary, hidden]."""
        return self.transformer.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.transformer.word_embeddings = value

    def resize_image_size(self, image_size: int) -> None:
        """Set the image size in pixels: interpolate the ViT's position embeddings and change the configuration.

        Raises:
            ImageError: `image_size` is not a multiple of the patch size.
        """
        self.image_encoder.vit.resize_positions(image_size)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Encode images [P, 3, H, W] into `image_embeds` [P, image_length, hidden]."""
        return self.image_encoder(pixel_values)[0]

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        image_embeds: Tensor | None = None,
        rotary_positions: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> VisualGLMOutput | tuple[Any, ...]:
        """Compute logits, and the loss if `labels` are given.

        Args:
            input_ids: [B, T]; placeholder tokens are `config.image_token_id`, a prompt ends with `[gMASK] <sop>`.
            pixel_values: [images in the batch, 3, H, W], row by row.
            attention_mask: [B, T], 0 at pads; or a 4-D mask.
            labels: [B, T], the unshifted ids, -100 at tokens without loss.
            past_key_values: a cache; positions continue from the end of its prompt.
            image_embeds: [images, image_length, hidden] from `encode_images`, instead of `pixel_values`.
            rotary_positions: [B, 2, T], overrides the positions derived from the ids.
            position_ids: [B, 2, T] or [B, T], ignored: positions are derived. They may not start again within a row.
            inputs_embeds: [B, T, hidden], replace the word embeddings of `input_ids`. Without `input_ids` the
                placeholder tokens, `[gMASK]` and `<sop>` are found by their embeddings.
            logits_to_keep: number of last positions with logits (0: all), or their indices.

        Raises:
            PromptError: placeholder tokens and images do not match, a row lacks `<sop>` or a mask token, or a row holds
                several examples.
        """
        skip_gaps = input_ids is None  # PEFT inserts virtual tokens before the padding
        input_ids = resolve_ids(input_ids, inputs_embeds, self.transformer.word_embeddings, self.config)
        if rotary_positions is None and not torch.compiler.is_compiling():
            check_one_example_per_row(input_ids, attention_mask, position_ids, kwargs, self.config.pad_token_id)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        use_cache = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if isinstance(past_key_values, DynamicCache) and not torch.compiler.is_compiling():
            preallocate(past_key_values)

        rotary_positions, prefix_lengths = self._positions(
            input_ids, attention_mask, past_key_values, rotary_positions, skip_gaps
        )
        if inputs_embeds is None:
            inputs_embeds = self.transformer.word_embeddings(input_ids)
        cross_attentions = None
        if prefix_lengths is not None:
            if image_embeds is None and pixel_values is not None:
                image_embeds, cross_attentions = self.image_encoder(pixel_values, output_attentions)
            inputs_embeds = self._fill_placeholders(inputs_embeds, input_ids, prefix_lengths, image_embeds)
        kernel = attention_implementation(self.config._attn_implementation, input_ids.shape[1], output_attentions)
        mask = prefix_mask(kernel, inputs_embeds, attention_mask, past_key_values, prefix_lengths)
        glm = self.transformer(
            inputs_embeds, rotary_positions, mask, past_key_values, output_hidden_states, output_attentions
        )
        logits = self.lm_head(_kept_positions(glm.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        output = VisualGLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=glm.hidden_states,
            attentions=glm.attentions,
            image_embeds=image_embeds if prefix_lengths is not None else None,
            cross_attentions=cross_attentions,
        )
        return output.to_tuple() if return_dict is False else output

    def _positions(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        rotary_positions: Tensor | None,
        skip_gaps: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return rotary positions [B, 2, T], and prefix lengths [B] unless the cache already holds the prompt.

        The cache stores the end of its prompt, so a hand-written loop can pass only the next ids.

        Raises:
            PromptError: no positions are given, and the cache was cut within the prompt or its number of rows changed.
        """
        end = PrefixState.of(past_key_values)
        if end is not None and past_key_values is not None and not is_empty(past_key_values):
            if rotary_positions is None:
                end.check_rows(len(input_ids))
                rotary_positions = end.positions_behind(past_key_values.get_seq_length(), input_ids.shape[1])
            return rotary_positions, None
        derived, prefix_lengths = prefix_positions(input_ids, attention_mask, self.config, skip_gaps)
        rotary_positions = derived if rotary_positions is None else rotary_positions
        if past_key_values is not None:
            length = past_key_values.get_seq_length() + input_ids.shape[1]
            PrefixState(rotary_positions[..., -1], length).remember(past_key_values)
        return rotary_positions, prefix_lengths

    def _fill_placeholders(
        self, inputs_embeds: Tensor, input_ids: Tensor, prefix_lengths: Tensor, image_embeds: Tensor | None
    ) -> Tensor:
        """Replace the placeholder tokens of the prefix by the image embeddings, row by row, in order."""
        placeholders = self._placeholder_mask(input_ids, prefix_lengths)
        if not torch.compiler.is_compiling():
            self._check_placeholders(placeholders, 0 if image_embeds is None else len(image_embeds))
            self._check_embeds(image_embeds)
        if image_embeds is None:
            return inputs_embeds
        return inputs_embeds.masked_scatter(
            placeholders[..., None].to(inputs_embeds.device), image_embeds.to(inputs_embeds)
        )

    def _placeholder_mask(self, input_ids: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Return a mask [B, T] of placeholder tokens; a *generated* image id after the prefix does not count."""
        index = torch.arange(input_ids.shape[1], device=input_ids.device)
        return (input_ids == self.config.image_token_id) & (index < prefix_lengths[:, None])

    def _check_placeholders(self, placeholders: Tensor, images: int) -> None:
        per_row = placeholders.sum(-1)
        if bool((per_row % self.config.image_length).any()) or int(per_row.sum()) != images * self.config.image_length:
            raise PromptError(
                f"{images} images need {self.config.image_length} placeholder tokens each, but the rows of input_ids "
                f"have {per_row.tolist()} (id {self.config.image_token_id} before <sop>). "
                "Build ids and pixel_values together with the processor."
            )

    def _check_embeds(self, image_embeds: Tensor | None) -> None:
        shape = (self.config.image_length, self.config.hidden_size)
        if image_embeds is not None and tuple(image_embeds.shape[1:]) != shape:
            raise PromptError(
                f"image_embeds are {list(image_embeds.shape)}, but the model needs [images, {shape[0]}, {shape[1]}]. "
                "Compute them with encode_images."
            )


def _kept_positions(hidden_states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """Return the last positions, or those at the given indices, of [B, T, hidden]; 0 keeps all.

    A slice is copied, because it has the strides of the whole tensor. With them torch's CPU matrix product copies the
    LM head's weight (1 GB at full size) for every prompt.
    """
    if isinstance(logits_to_keep, Tensor):
        return hidden_states[:, logits_to_keep]
    if logits_to_keep == 0:
        return hidden_states
    return hidden_states[:, -logits_to_keep:].clone(memory_format=torch.contiguous_format)
