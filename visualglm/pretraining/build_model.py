"""Build the initial model of a pretraining run."""

from __future__ import annotations

import torch

from ..checkpoints.tensor_check import check_finite_model
from ..errors import UsageError
from ..model import VisualGLMForConditionalGeneration
from ..network.configuration import QFormerConfig, VisionConfig, VisualGLMConfig
from ..preprocessing.tokenizer import ChatGLMTokenizer
from .config import Checkpoints, ModelSizes, RunConfig

PARTS = {"vision": "image_encoder.vit.", "qformer": "image_encoder.qformer.", "language": ("transformer.", "lm_head.")}


def build_initial_model(recipe: RunConfig, tokenizer: ChatGLMTokenizer) -> VisualGLMForConditionalGeneration:
    """Build a recipe's model from its sizes or a checkpoint, then copy parts of other checkpoints if it names any."""
    start = recipe.start
    model = _load_model(start.model) if start.model else build_model(recipe.model, tokenizer)
    _copy_parts(model, start)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def _load_model(folder: str) -> VisualGLMForConditionalGeneration:
    model = VisualGLMForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    check_finite_model(model, folder)
    return model


def _copy_parts(model: VisualGLMForConditionalGeneration, start: Checkpoints) -> None:
    """Copy the vision, Q-Former and language weights of other checkpoints.

    Raises:
        UsageError: a part has other shapes.
    """
    for part, prefix in PARTS.items():
        folder = getattr(start, part)
        if not folder:
            continue
        other = _load_model(folder).state_dict()
        weights = {name: value for name, value in other.items() if name.startswith(prefix)}
        own = model.state_dict()
        shapes = {name: list(value.shape) for name, value in weights.items()}
        expected = {name: list(value.shape) for name, value in own.items() if name.startswith(prefix)}
        wrong = next((name for name in shapes | expected if shapes.get(name) != expected.get(name)), None)
        if wrong:
            raise UsageError(
                f"The {part} of {folder} does not fit: {wrong} is {shapes.get(wrong)} there and {expected.get(wrong)} "
                "in this recipe's model. Take start.model from the same checkpoint."
            )
        model.load_state_dict(weights, strict=False)


def build_model(sizes: ModelSizes, tokenizer: ChatGLMTokenizer) -> VisualGLMForConditionalGeneration:
    """Build a model with random weights, of the given sizes and with the ids of the vocabulary."""
    piece = tokenizer.sp_model.piece_to_id
    config = VisualGLMConfig(
        vocab_size=sizes.vocab_size,
        num_layers=sizes.layers,
        hidden_size=sizes.hidden,
        num_attention_heads=sizes.hidden // 64,
        inner_hidden_size=4 * sizes.hidden,
        image_length=sizes.queries,
        vision_config=_vision(sizes),
        qformer_config=_qformer(sizes),
        mask_token_id=piece("[MASK]"),
        gmask_token_id=piece("[gMASK]"),
        bos_token_id=piece("<sop>"),
        eos_token_id=piece("<eop>"),
        initializer_range=sizes.initializer_range,
        tie_word_embeddings=sizes.tie_word_embeddings,
    )
    return VisualGLMForConditionalGeneration(config)


def _vision(sizes: ModelSizes) -> VisionConfig:
    return VisionConfig(
        num_layers=sizes.vision_layers,
        hidden_size=sizes.vision_hidden,
        num_attention_heads=sizes.vision_hidden // 64,
        inner_hidden_size=4 * sizes.vision_hidden,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        initializer_range=sizes.initializer_range,
    )


def _qformer(sizes: ModelSizes) -> QFormerConfig:
    return QFormerConfig(
        num_layers=sizes.qformer_layers,
        hidden_size=sizes.qformer_hidden,
        num_attention_heads=sizes.qformer_hidden // 64,
        cross_attn_hidden_size=sizes.vision_hidden,
        num_queries=sizes.queries,
        cross_attention_layers=list(range(sizes.qformer_layers)),
        initializer_range=sizes.initializer_range,
    )
