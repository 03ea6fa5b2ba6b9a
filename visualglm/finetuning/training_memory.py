"""Estimate of the peak memory of a fine-tuning run, from shapes alone.

    weights + gradients and two moments of the trained parameters + activations kept for the backward pass

The counts per block come from what autograd saves (`tests/finetuning/test_training_memory.py` counts it), and the sums
were compared with processes (`benchmarks/finetuning.py`). The program itself is not included.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from .config import Finetuning
from .trainable_model import TrainableModel, is_four_bit, is_quantized_base

GRADIENT, MOMENTS, STEP = 4, 8, 4
"""Bytes per trained parameter. Those of the optimizer step are allocated after the activations are freed."""
ACTIVATIONS_PER_BLOCK = 12
"""Values that a frozen block of the language model keeps per token and hidden channel for the backward pass."""
TRAINED_INPUT = {
    "attention.query_key_value": 2,
    "attention.dense": 0,  # attention keeps it anyway
    "mlp.dense_h_to_4h": 1,
    "mlp.dense_4h_to_h": 4,
}
"""Additional values for a linear layer whose weight, or LoRA, trains."""
DROPPED_INPUT = {**dict.fromkeys(TRAINED_INPUT, 1), "mlp.dense_4h_to_h": 4}
"""Further values for LoRA with dropout."""
VISION, QFORMER = 17, 20
"""The same for a block of the vision encoder per position, and of the Q-Former per query."""
HEAD = 3
"""Float32 values per logit: the logits, their softmax, and its gradient."""


@dataclass(frozen=True)
class TrainingMemory:
    """Estimated bytes of one process."""

    weights: int
    training: int
    one_pass: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.weights + self.training + self.one_pass


def estimate_training_memory(tuned: TrainableModel, tokens: int, processes: int = 1) -> TrainingMemory:
    """Estimate the memory of a run whose longest sample has `tokens` tokens."""
    model, recipe, trained = tuned.model, tuned.recipe, sum(tuned.counts().values())
    weights = sum(
        _stored_bytes(tensor) for tensor in chain(model.parameters(), model.buffers())
    )  # quantized weights are buffers
    shards = processes if recipe.sharding == "fsdp" else 1
    dequantized = _dequantized_bytes(model, recipe, tuned.dtype.itemsize)
    activations = _activation_bytes(model.config, recipe, tokens, tuned.dtype.itemsize, trained)
    one_pass = max(activations + dequantized, STEP * trained // shards)
    gathered = 0
    if shards > 1:  # FSDP gathers the word embeddings and one block at one time, in float32
        config = model.config
        gathered = int(4 * config.hidden_size * (config.vocab_size + 12 * config.hidden_size))
    return TrainingMemory(weights // shards, trained * (GRADIENT + MOMENTS) // shards, one_pass + gathered)


def _stored_bytes(tensor: Any) -> int:
    """Return the bytes of a weight. In QLoRA 64 weights take 32 bytes and a scale of 4 bytes."""
    size = int(tensor.numel() * tensor.element_size())
    return size + size // 8 if is_four_bit(tensor) else size


def _dequantized_bytes(model: Any, recipe: Finetuning, width: int) -> int:
    """Return the bytes of the largest weight of a quantized base: weights are dequantized one at a time."""
    return 4 * model.config.hidden_size**2 * width if recipe.method == "qlora" or is_quantized_base(model) else 0


def _activation_bytes(config: Any, recipe: Finetuning, tokens: int, width: int, trained: int) -> int:
    """Return the bytes kept for the backward pass; `width` is that of the compute dtype in bytes."""
    rows, hidden = recipe.batch * tokens, config.hidden_size
    block = rows * hidden * _kept_per_block(recipe) * width
    if recipe.gradient_checkpointing:
        language = config.num_layers * rows * hidden * width + block
    else:
        language = config.num_layers * block
    logits = HEAD * rows * config.vocab_size * 4
    narrow = width * trained if recipe.method == "full" and width < 4 else 0  # autocast's copies
    return language + logits + narrow + _vision_bytes(config, recipe, width)


def _kept_per_block(recipe: Finetuning) -> int:
    mode = recipe.parts.language
    if mode == "full":
        return ACTIVATIONS_PER_BLOCK + sum(TRAINED_INPUT.values())
    if mode != "lora":
        return ACTIVATIONS_PER_BLOCK
    kept = ACTIVATIONS_PER_BLOCK + sum(TRAINED_INPUT.get(target, 0) for target in recipe.lora.targets)
    return kept + (sum(DROPPED_INPUT.get(target, 0) for target in recipe.lora.targets) if recipe.lora.dropout else 0)


def _vision_bytes(config: Any, recipe: Finetuning, width: int) -> int:
    """Return the bytes that the vision-side modules keep: 0 if all are frozen."""
    vision, qformer, parts = config.vision, config.qformer, recipe.parts
    kept = 0
    if parts.vision != "frozen":
        kept += vision.num_layers * vision.num_positions * vision.hidden_size * VISION
    if parts.vision != "frozen" or parts.qformer != "frozen":
        kept += qformer.num_layers * qformer.num_queries * qformer.hidden_size * QFORMER
    return int(recipe.batch * kept * width)
