"""Image processing for vLLM: placeholder tokens and pixels.

The prompt already contains all placeholder tokens (renderer.py); this file tells vLLM where they are. vLLM caches
pixels and embeddings by content, so an image that is sent again is neither resized nor encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    ProcessorInputs,
    PromptReplacement,
)

from ..preprocessing.processor import VisualGLMProcessor


class ImageProcessingInfo(BaseProcessingInfo):
    """Processor and limits for the model's images."""

    @cached_property
    def processor(self) -> VisualGLMProcessor:
        """The processor, built from the configuration: inside vLLM it is not registered for the Auto classes."""
        return VisualGLMProcessor.for_config(self.get_hf_config(), self.get_tokenizer())

    @property
    def placeholder_ids(self) -> list[int]:
        """The placeholder tokens of one image in a prompt."""
        return [self.processor.image_token_id] * self.processor.image_length

    def get_hf_processor(self, **kwargs: object) -> VisualGLMProcessor:
        """Return `processor`, under vLLM's name."""
        return self.processor

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Allow any number of images per prompt."""
        return {"image": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Return the number of placeholder tokens, the same for every image."""
        return {"image": len(self.placeholder_ids)}


class DummyImages(BaseDummyInputsBuilder[ImageProcessingInfo]):
    """Blank images with which vLLM profiles memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Return no text; `ImageMultiModalProcessor.get_dummy_inputs` gives ids."""
        return ""

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> Any:
        """Return as many images as requested, in the model's image size."""
        side = self.info.get_hf_config().vision.image_size
        count = mm_counts.get("image", 0)
        return {"image": self._get_dummy_images(width=side, height=side, num_images=count)}


class ImageMultiModalProcessor(BaseMultiModalProcessor[ImageProcessingInfo]):
    """Turns images into pixels and finds their placeholder tokens."""

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> ProcessorInputs:
        """Return placeholder ids as the prompt: they have no text form."""
        images = self.dummy_inputs.get_dummy_mm_data(seq_len, mm_counts, mm_options)
        return ProcessorInputs(
            prompt=self.info.placeholder_ids * mm_counts.get("image", 0),
            mm_data_items=self.info.parse_mm_data(images, validate=False),
        )

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"pixel_values": MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        ids = self.info.placeholder_ids
        return [PromptReplacement("image", target=ids, replacement=ids)]
