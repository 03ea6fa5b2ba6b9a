"""training/architecture: a recipe's sizes and a vocabulary -> a new, untrained VisualGLM."""

from __future__ import annotations

from ..configuration import QFormerConfig, VisionConfig, VisualGLMConfig
from ..model import VisualGLMForConditionalGeneration
from ..tokenizer import ChatGLMTokenizer
from .recipe import ModelSizes


def build_model(sizes: ModelSizes, tokenizer: ChatGLMTokenizer) -> VisualGLMForConditionalGeneration:
    """A new model of these sizes with the ids of this vocabulary."""
    vision = VisionConfig(
        num_layers=sizes.vision_layers,
        hidden_size=sizes.vision_hidden,
        num_attention_heads=sizes.vision_hidden // 64,
        inner_hidden_size=4 * sizes.vision_hidden,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        initializer_range=sizes.initializer_range,
    )
    qformer = QFormerConfig(
        num_layers=sizes.qformer_layers,
        hidden_size=sizes.qformer_hidden,
        num_attention_heads=sizes.qformer_hidden // 64,
        cross_attn_hidden_size=sizes.vision_hidden,
        num_queries=sizes.queries,
        cross_attention_layers=list(range(sizes.qformer_layers)),
        initializer_range=sizes.initializer_range,
    )
    piece = tokenizer.sp_model.piece_to_id
    config = VisualGLMConfig(
        vocab_size=sizes.vocab_size,
        num_layers=sizes.layers,
        hidden_size=sizes.hidden,
        num_attention_heads=sizes.hidden // 64,
        inner_hidden_size=4 * sizes.hidden,
        image_length=sizes.queries,
        vision_config=vision,
        qformer_config=qformer,
        mask_token_id=piece("[MASK]"),
        gmask_token_id=piece("[gMASK]"),
        bos_token_id=piece("<sop>"),
        eos_token_id=piece("<eop>"),
        initializer_range=sizes.initializer_range,
    )
    return VisualGLMForConditionalGeneration(config)
