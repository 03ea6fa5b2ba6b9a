"""finetuning/plan: what a run is going to do and need, said before it begins.

Memory is an estimate: weights as held, gradients and two moments of what trains, and what a pass keeps for the way
back. Knows nothing about data beyond lengths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .parts import PICTURE_ROAD, Tuned
from .recipe import Finetuning

KEPT_PER_BLOCK = 18
"""Numbers a block keeps per token and hidden channel for its gradient: norms, q, k, v, context, 2 * 4 feed-forward."""
MASTER, GRADIENT, MOMENTS = 4, 4, 8


@dataclass(frozen=True)
class Plan:
    """Counts of a run, and the bytes it is foretold to take."""

    learned: int
    held_out: int
    steps_per_epoch: int
    steps: int
    warmup: int
    trained: dict[str, int]
    total: int
    weight_bytes: int
    training_bytes: int
    pass_bytes: int

    def lines(self) -> Iterator[str]:
        """What a user reads before the work."""
        yield f"samples: {self.learned} to learn from, {self.held_out} held out"
        yield f"steps: {self.steps_per_epoch} an epoch, {self.steps} in all, {self.warmup} of them warm-up"
        parts = ", ".join(f"{part} {count:,}" for part, count in self.trained.items() if count)
        trained = sum(self.trained.values())
        yield f"trained: {trained:,} of {self.total:,} numbers ({100 * trained / self.total:.2f} %): {parts}"
        sizes = (self.weight_bytes, self.training_bytes, self.pass_bytes)
        weights, training, one_pass = (_megabytes(size) for size in sizes)
        yield (
            f"memory, about {_megabytes(sum(sizes))}: weights {weights}, gradients and optimizer {training}, "
            f"a pass {one_pass}"
        )


def plan_of(tuned: Tuned, lengths: list[int], held_out: int, world: int) -> Plan:
    """The plan of a run over samples of these lengths (tokens), in `world` processes."""
    recipe = tuned.recipe
    batches = math.ceil(len(lengths) / (recipe.batch * world))
    per_epoch = math.ceil(batches / recipe.accumulate)
    steps = math.ceil(recipe.epochs * per_epoch)
    counts = tuned.counts()
    parameters = list(tuned.model.parameters())
    return Plan(
        len(lengths),
        held_out,
        per_epoch,
        steps,
        math.ceil(recipe.warmup * steps),
        counts,
        sum(_size(parameter) for parameter in parameters),
        sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        sum(counts.values()) * (GRADIENT + MOMENTS),
        _pass_bytes(tuned.model.config, recipe, max(lengths), parameters[0].element_size(), counts),
    )


def _size(parameter: Any) -> int:
    """A 4-bit weight holds two numbers in a byte."""
    return int(parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1))


def _pass_bytes(config: Any, recipe: Finetuning, tokens: int, width: int, counts: dict[str, int]) -> int:
    rows = recipe.batch * tokens
    block = rows * config.hidden_size * KEPT_PER_BLOCK * width
    blocks = config.num_layers * block
    if recipe.gradient_checkpointing:
        blocks = config.num_layers * rows * config.hidden_size * width + block
    logits = rows * config.vocab_size * 4 * 3  # in float32: themselves, their softmax, their gradient
    vision = config.vision
    seen = recipe.batch * vision.num_positions * vision.hidden_size * KEPT_PER_BLOCK * width
    return blocks + logits + seen * (vision.num_layers if any(counts[part] for part in PICTURE_ROAD) else 1)


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
