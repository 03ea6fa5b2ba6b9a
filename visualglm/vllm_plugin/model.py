"""The vLLM model class: image encoder, parallel GLM, parallel head.

    pixel_values [images, 3, H, W] -- image_encoder --> [images, image_length, hidden]   once per image, then cached
    ids [rows] -- word_embeddings, image embeddings --> [rows, hidden] -- glm --> [rows, hidden] -- lm_head --> logits

Weights are loaded from a native checkpoint without renaming. vLLM chooses how the language model's linear layers are
computed (16 bit, torchao, ...). The image encoder is ours and is replicated in each process.
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

from ..checkpoints.tensor_check import finite_weights
from ..network.vision import BEHIND_STEM
from ..network.visualglm import ImageEncoder
from . import lora
from .finite_logits import count_nan, mark_rows
from .glm import ParallelGLM
from .multimodal import DummyImages, ImageMultiModalProcessor, ImageProcessingInfo


@MULTIMODAL_REGISTRY.register_processor(ImageMultiModalProcessor, info=ImageProcessingInfo, dummy_inputs=DummyImages)
class VisualGLMForVLLM(nn.Module, SupportsMultiModal, SupportsLoRA, SupportsQuant):
    """VisualGLM for vLLM's registry; the module docstring has the shapes."""

    packed_modules_mapping: dict[str, list[str]] = {}

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return None: the renderer writes placeholder ids, so no placeholder text exists."""
        return None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        self.visualglm_folder = vllm_config.model_config.model  # lora.py checks adapters against it
        lora.patch_lora_loading()
        count_nan()
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
        """Return the language model."""
        return self.transformer

    def get_mm_mapping(self) -> MultiModelKeys:
        """Name the modules of language model, connector and vision encoder."""
        return MultiModelKeys.from_string_field(
            language_model="transformer",
            connector=[f"image_encoder.{part}" for part in ("qformer", "glm_proj", *BEHIND_STEM)],
            tower_model="image_encoder.vit",
        )

    def embed_multimodal(self, **images: Any) -> MultiModalEmbeddings:
        """`pixel_values` [images, 3, H, W] -> [images, image_length, hidden]."""
        pixel_values = images.get("pixel_values")
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
        """ids [rows] -> [rows, hidden]; rows where `is_multimodal` get the image embeddings in order."""
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
        """ids [rows], or embeddings [rows, hidden], and the positions in each request [rows] -> [rows, hidden]."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_input_ids(input_ids)
        return self.transformer(inputs_embeds, positions)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[rows, hidden] -> [rows, vocab_size], or None in a process that does not gather logits."""
        logits = self.logits_processor(self.lm_head, hidden_states)
        return None if logits is None else mark_rows(logits)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load a native checkpoint's tensors; return the names of the parameters that were set."""
        return AutoWeightsLoader(self).load_weights(finite_weights(weights, self.visualglm_folder))
