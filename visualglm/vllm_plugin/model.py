"""The whole model as vLLM runs it: our image encoder, ParallelGLM, a parallel head.

    pixel_values [pictures, 3, H, W] -- image_encoder --> [pictures, image_length, hidden]   once a picture, then cached
    ids [rows] -- word_embeddings, slots filled --> [rows, hidden] -- glm --> [rows, hidden] -- lm_head --> logits

Weights come from a native checkpoint, under its own names; what a linear layer of the language model is made of is
vLLM's affair (16 bit, torchao, ...). The image encoder is ours, whole in each process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsLoRA, SupportsMultiModal, SupportsQuant
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..network.visualglm import ImageEncoder
from . import lora
from .glm import ParallelGLM
from .multimodal import DummyImages, ImageMultiModalProcessor, ImageProcessingInfo


@MULTIMODAL_REGISTRY.register_processor(ImageMultiModalProcessor, info=ImageProcessingInfo, dummy_inputs=DummyImages)
class VisualGLMForVLLM(nn.Module, SupportsMultiModal, SupportsLoRA, SupportsQuant):
    """See the head of this file."""

    packed_modules_mapping: dict[str, list[str]] = {}

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Pictures have no text of their own: the renderer writes ids."""
        return None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        self.visualglm_folder = vllm_config.model_config.model  # adapters are checked against it
        lora.patch_lora_loading()
        with self._mark_tower_model(vllm_config, "image"):  # type: ignore[operator]
            self.image_encoder = ImageEncoder(config.vision, config.qformer, config.hidden_size)
        self.transformer = ParallelGLM(vllm_config, maybe_prefix(prefix, "transformer"))
        self.lm_head = ParallelLMHead(
            config.vocab_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        if config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.transformer.word_embeddings)
        self.logits_processor = LogitsProcessor(config.vocab_size)

    def get_language_model(self) -> nn.Module:
        """The part that reads text."""
        return self.transformer

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which modules belong to which part."""
        return MultiModelKeys.from_string_field(
            language_model="transformer",
            connector=["image_encoder.qformer", "image_encoder.glm_proj"],
            tower_model="image_encoder.vit",
        )

    def embed_multimodal(self, **pictures: Any) -> MultiModalEmbeddings:
        """`pixel_values` [pictures, 3, H, W] -> [pictures, image_length, hidden]."""
        pixel_values = pictures.get("pixel_values")
        if pixel_values is None:
            return []
        if not isinstance(pixel_values, Tensor):
            pixel_values = torch.stack(list(pixel_values))
        return self.image_encoder(pixel_values)[0]

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: MultiModalEmbeddings | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """ids [rows] -> [rows, hidden]; where `is_multimodal` [rows], the pictures' vectors in order."""
        embeds = self.transformer.word_embeddings(input_ids)
        if multimodal_embeddings is None or is_multimodal is None or not len(multimodal_embeddings):
            return embeds
        vectors = torch.cat(list(multimodal_embeddings)).to(embeds)
        return embeds.masked_scatter(is_multimodal.to(embeds.device)[:, None], vectors)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """ids, or embeddings, of all rows and their places in their requests [rows] -> [rows, hidden]."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_input_ids(input_ids)
        return self.transformer(inputs_embeds, positions)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[rows, hidden] -> [rows, vocabulary], or None in a process that is not asked."""
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """A native checkpoint's tensors; returns the names that were filled."""
        return AutoWeightsLoader(self).load_weights(weights)
