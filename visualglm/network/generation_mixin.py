"""Hooks of transformers' `generate` for this model: positions, masks, caches, images, penalties.

In: a prompt's ids and images. Out: ids.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache, StaticCache
from transformers.generation import (
    GenerationConfig,
    InfNanRemoveLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from . import sampling
from .cuda_graph_thread import in_one_thread
from .input_checks import check_one_example_per_row, structure_ids
from .kv_cache import preallocate
from .prefix_mask import prefix_mask
from .rotary import PrefixState, prefix_positions
from .unsupported_generation import check_generation_methods

STATIC_LENGTHS = 512
"""Multiple to which the length of a static cache is rounded up where steps are compiled."""


class VisualGLMGenerationMixin(GenerationMixin):
    """Base of the model, which provides `config`, `encode_images` and `_placeholder_mask`.

    transformers looks for `GenerationMixin` among the direct bases, so the model lists it too.
    """

    compiles_steps = False
    """Whether `generate` uses a static cache by default, for which transformers compiles decoding steps on a GPU."""

    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any
    ) -> Any:
        """Generate ids with transformers' `generate`.

        `do_sample=False` or `temperature=0` also switch off the checkpoint's repetition penalty and min_length, unless
        they are given.
        """
        check_generation_methods(generation_config or self.generation_config, kwargs)
        ids = kwargs.get("input_ids") if inputs is None else inputs
        if ids is not None:
            mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
            check_one_example_per_row(ids, mask, positions, kwargs, self.config.pad_token_id)
        if generation_config is None:
            kwargs = sampling.resolve(**kwargs)
        elif generation_config.do_sample is False:
            generation_config = copy.deepcopy(generation_config)
            generation_config.update(**sampling.PRESETS["greedy"], defaults_only=True)
        given = kwargs.get("past_key_values")
        if given is None and self._takes_static_cache(generation_config, kwargs):
            kwargs["cache_implementation"] = "static"
        if isinstance(given, StaticCache) or kwargs.get("cache_implementation") == "static":  # compiled on a GPU
            return in_one_thread(super().generate, inputs, generation_config, **kwargs)
        return super().generate(inputs, generation_config, **kwargs)

    def _takes_static_cache(self, generation_config: GenerationConfig | None, kwargs: dict[str, Any]) -> bool:
        """Return whether a static cache is requested, or `compiles_steps` is set and no argument rules one out."""
        named = kwargs.get("cache_implementation") or getattr(generation_config, "cache_implementation", None)
        named = named or self.generation_config.cache_implementation
        guesses = kwargs.get("assistant_model") or kwargs.get("prompt_lookup_num_tokens")  # these crop the cache
        may = named is None and not guesses and kwargs.get("use_cache", True)
        return bool(named == "static" or (self.compiles_steps and may))

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Add the rotary positions, and keep the images for the prompt only.

        Positions are derived from the whole row when an answer begins or rows were selected or repeated, and then
        continue from there. transformers looks for the parameter `inputs_embeds` in this signature.
        """
        kwargs.pop("position_ids", None)
        cache, attention_mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        model_inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if model_inputs["input_ids"] is None and input_ids.shape[1]:  # embeddings replace these ids' own
            model_inputs["input_ids"] = input_ids[:, -model_inputs["inputs_embeds"].shape[1] :]
        end = PrefixState.of(cache)
        if cache is None or end is None or model_inputs["input_ids"] is None:
            return model_inputs
        new_tokens = model_inputs["input_ids"].shape[1]
        if kwargs.get("is_first_iteration") or len(end.rotary) != len(input_ids):
            rotary = prefix_positions(input_ids, attention_mask, self.config).rotary[..., -new_tokens:]
            PrefixState(rotary[..., -1], cache.get_seq_length() + new_tokens).remember(cache)
        else:
            rotary = end.positions_behind(cache.get_seq_length(), new_tokens)
        return {**model_inputs, "rotary_positions": rotary}

    @staticmethod
    def create_masks_for_generate(
        config: Any, inputs_embeds: Tensor, attention_mask: Tensor | None, past_key_values: Cache, **kwargs: Any
    ) -> Tensor | None:
        """Return the padding mask of a prompt unchanged, because only `forward` knows the prefix.

        A decoding step over a static cache gets its mask here, in the size of the cache: the shapes of a compiled step
        must not grow.
        """
        if PrefixState.of(past_key_values) is None or inputs_embeds.shape[1] > 1:
            return attention_mask
        return prefix_mask("sdpa", inputs_embeds, attention_mask, past_key_values, None)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Encode the images once and repeat them with the rows (beams, return sequences).

        transformers would repeat each image in place, which mixes up rows with several images.
        """
        pixel_values, image_embeds = kwargs.pop("pixel_values", None), kwargs.pop("image_embeds", None)
        attention_mask = kwargs.get("attention_mask")
        if image_embeds is None and pixel_values is not None:
            image_embeds = self.encode_images(pixel_values)
        if image_embeds is not None and expand_size > 1 and input_ids is not None:
            ids = input_ids
            if not ids.shape[1]:  # the prompt was given as embeddings
                ids = structure_ids(kwargs["inputs_embeds"], self.get_input_embeddings(), self.config)
            prefix_lengths = prefix_positions(ids, attention_mask, self.config).prefix_lengths
            per_row = self._placeholder_mask(ids, prefix_lengths).sum(-1) // self.config.image_length
            rows = image_embeds.split(per_row.tolist())
            image_embeds = torch.cat([row for row in rows for _ in range(expand_size)])
        input_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        return input_ids, {**kwargs, "image_embeds": image_embeds}

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: Any, mode: Any, batch_size: int, length: int
    ) -> Any:
        """Create transformers' cache; preallocate a dynamic one and round up the length of a static one.

        A compiled step is compiled for the length of its cache, so rounding avoids recompilation.
        """
        if self.device.type != "cpu" or generation_config.compile_config is not None:
            length = -(-length // STATIC_LENGTHS) * STATIC_LENGTHS
        super()._prepare_cache_for_generation(generation_config, model_kwargs, mode, batch_size, length)
        cache = model_kwargs.get("past_key_values")
        if generation_config.cache_implementation in (None, "dynamic") and isinstance(cache, DynamicCache):
            preallocate(cache)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """Check the logits first, replace transformers' repetition penalty by upstream's, count n-grams within the
        answer alone, and put a seeded draw last."""
        model_kwargs: Mapping[str, Any] = kwargs.get("model_kwargs") or {}
        mask = model_kwargs.get("attention_mask")
        padding = None if mask is None or mask.dim() != 2 else (mask != 0).int().argmax(-1)
        if kwargs.get("input_ids_seq_length") == 0:
            padding = None  # the prompt was given as embeddings, so the ids have no pads
        sop = self.config.bos_token_id

        def ours(processor: LogitsProcessor) -> LogitsProcessor:
            if isinstance(processor, RepetitionPenaltyLogitsProcessor):
                return sampling.PlaceholderAwareRepetitionPenalty(
                    processor.penalty, self.config.image_token_id or 0, self.config.unk_token_id, sop, padding
                )
            if type(processor) is NoRepeatNGramLogitsProcessor:
                return sampling.AnswerNoRepeatNGram(processor.ngram_size, sop)
            return processor

        found = super()._get_logits_processor(*args, **kwargs)
        given = LogitsProcessorList(
            map(ours, sorted(found, key=lambda processor: isinstance(processor, sampling.SeededDraw)))
        )
        removes_invalid = any(isinstance(processor, InfNanRemoveLogitsProcessor) for processor in given)
        return given if removes_invalid else LogitsProcessorList([sampling.RequireFinite(), *given])
