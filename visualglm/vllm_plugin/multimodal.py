"""What vLLM asks about pictures: how many slots each has, and its pixels.

The prompt that comes in has all slots already (renderer.py); here vLLM learns where they are. It remembers pixels and
vectors by content, so that a picture which is asked about again is neither resized nor encoded again.
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
    """Facts about the model's pictures."""

    @cached_property
    def processor(self) -> VisualGLMProcessor:
        """Made from the configuration; the Auto classes know nothing of it inside vLLM."""
        return VisualGLMProcessor.for_config(self.get_hf_config(), self.get_tokenizer())

    @property
    def slots(self) -> list[int]:
        """One picture's place in a prompt."""
        return [self.processor.image_token_id] * self.processor.image_length

    def get_hf_processor(self, **kwargs: object) -> VisualGLMProcessor:
        """vLLM's name for `processor`."""
        return self.processor

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Any number of pictures."""
        return {"image": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Every picture takes the same number."""
        return {"image": len(self.slots)}


class DummyImages(BaseDummyInputsBuilder[ImageProcessingInfo]):
    """Blank pictures, for vLLM to measure memory with."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Slots have no text; see `ImageMultiModalProcessor.get_dummy_inputs`."""
        return ""

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> Any:
        """As many pictures as asked for, in the model's size."""
        side = self.info.get_hf_config().vision.image_size
        count = mm_counts.get("image", 0)
        return {"image": self._get_dummy_images(width=side, height=side, num_images=count)}


class ImageMultiModalProcessor(BaseMultiModalProcessor[ImageProcessingInfo]):
    """Pictures to pixels, and slots to places."""

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> ProcessorInputs:
        """Slots instead of a text that spells them."""
        pictures = self.dummy_inputs.get_dummy_mm_data(seq_len, mm_counts, mm_options)
        return ProcessorInputs(
            prompt=self.info.slots * mm_counts.get("image", 0),
            mm_data_items=self.info.parse_mm_data(pictures, validate=False),
        )

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"pixel_values": MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        return [PromptReplacement("image", target=self.info.slots, replacement=self.info.slots)]
