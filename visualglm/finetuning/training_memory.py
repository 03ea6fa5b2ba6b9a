"""The bytes that a run is foretold to take, from shapes alone.

    weights as they are held, gradients and two moments of what trains, and what a pass keeps for the way back

The numbers per block were counted from what autograd saves (`tests/finetuning/test_training_memory.py` counts again),
and the sums compared with processes (`benchmarks/finetuning.py`). The program itself comes on top. Knows nothing
about data beyond lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from .finetuning_config import Finetuning
from .trainable_model import TrainableModel, is_four_bit, is_quantized_base

GRADIENT, MOMENTS, STEP = 4, 8, 4
"""Bytes per trained number; the step's are there when the pass's are gone."""
ACTIVATIONS_PER_BLOCK = 12
"""Numbers a block of the language model keeps per token and hidden channel, where gradients only pass through."""
TRAINED_INPUT = {
    "attention.query_key_value": 2,
    "attention.dense": 0,  # attention keeps it anyway
    "mlp.dense_h_to_4h": 1,
    "mlp.dense_4h_to_h": 4,
}
"""What comes to it for a linear layer whose weight, or LoRA, trains."""
DROPPED_INPUT = {**dict.fromkeys(TRAINED_INPUT, 1), "mlp.dense_4h_to_h": 4}
"""And for LoRA with dropout."""
VISION, QFORMER = 17, 20
"""The same of a ViT's block per position, and of a Q-Former's per query."""
HEAD = 3
"""The logits in float32, their softmax, and its gradient."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process."""

    weights: int
    training: int
    one_pass: int

    @property
    def total(self) -> int:
        """The most at one time."""
        return self.weights + self.training + self.one_pass


def estimate_training_memory(tuned: TrainableModel, tokens: int, processes: int = 1) -> TrainingMemory:
    """What a run takes whose longest sample has `tokens` tokens."""
    model, recipe, trained = tuned.model, tuned.recipe, sum(tuned.counts().values())
    weights = sum(_held(tensor) for tensor in chain(model.parameters(), model.buffers()))  # stored bits are buffers
    shares = processes if recipe.sharding == "fsdp" else 1
    unpacked = _unpacked(model, recipe, tuned.dtype.itemsize)
    kept = max(_pass(model.config, recipe, tokens, tuned.dtype.itemsize, trained) + unpacked, STEP * trained // shares)
    put_together = _largest_units(model.config) if shares > 1 else 0
    return TrainingMemory(weights // shares, trained * (GRADIENT + MOMENTS) // shares, kept + put_together)


def _largest_units(config: Any) -> int:
    """What a process has whole of a sharded model while it computes: the word embeddings and one block, in float32."""
    return int(4 * config.hidden_size * (config.vocab_size + 12 * config.hidden_size))


def _held(tensor: Any) -> int:
    """Bytes of a weight; QLoRA's has a scale of four bytes for 64 numbers, which are 32 bytes."""
    size = int(tensor.numel() * tensor.element_size())
    return size + size // 8 if is_four_bit(tensor) else size


def _unpacked(model: Any, recipe: Finetuning, width: int) -> int:
    """The largest weight of a base in few bits; they are made numbers one at a time."""
    return 4 * model.config.hidden_size**2 * width if recipe.method == "qlora" or is_quantized_base(model) else 0


def _pass(config: Any, recipe: Finetuning, tokens: int, width: int, trained: int) -> int:
    rows, hidden = recipe.batch * tokens, config.hidden_size
    block = rows * hidden * _kept_per_block(recipe) * width
    if recipe.gradient_checkpointing:
        language = config.num_layers * rows * hidden * width + block
    else:
        language = config.num_layers * block
    logits = HEAD * rows * config.vocab_size * 4
    narrow = width * trained if recipe.method == "full" and width < 4 else 0  # autocast's copies
    return language + logits + narrow + _picture(config, recipe, width)


def _kept_per_block(recipe: Finetuning) -> int:
    way = recipe.parts.language
    if way == "full":
        return ACTIVATIONS_PER_BLOCK + sum(TRAINED_INPUT.values())
    if way != "lora":
        return ACTIVATIONS_PER_BLOCK
    kept = ACTIVATIONS_PER_BLOCK + sum(TRAINED_INPUT.get(target, 0) for target in recipe.lora.targets)
    return kept + (sum(DROPPED_INPUT.get(target, 0) for target in recipe.lora.targets) if recipe.lora.dropout else 0)


def _picture(config: Any, recipe: Finetuning, width: int) -> int:
    """What the picture's road keeps: nothing where nothing on it trains."""
    vision, qformer, parts = config.vision, config.qformer, recipe.parts
    kept = 0
    if parts.vision != "frozen":
        kept += vision.num_layers * vision.num_positions * vision.hidden_size * VISION
    if parts.vision != "frozen" or parts.qformer != "frozen":
        kept += qformer.num_layers * qformer.num_queries * qformer.hidden_size * QFORMER
    return int(recipe.batch * kept * width)
