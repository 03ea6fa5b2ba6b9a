"""Plan of a run, printed before it starts: samples, steps, trainable parameters, memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..hardware.memory import in_words
from .trainable_model import TrainableModel, num_parameters
from .training_memory import TrainingMemory, estimate_training_memory


@dataclass(frozen=True)
class RunPlan:
    """Counts of a run, and its estimated memory."""

    learned: int
    held_out: int
    steps_per_epoch: int
    steps: int
    warmup: int
    trained: dict[str, int]
    total: int
    memory: TrainingMemory

    def lines(self) -> Iterator[str]:
        """Yield the lines that a user reads before training."""
        yield f"samples: {self.learned} to train on, {self.held_out} held out"
        yield f"steps: {self.steps_per_epoch} per epoch, {self.steps} in total, {self.warmup} of them warm-up"
        parts = ", ".join(f"{part} {count:,}" for part, count in self.trained.items() if count)
        trained = sum(self.trained.values())
        yield f"trainable parameters: {trained:,} of {self.total:,} ({100 * trained / self.total:.2f} %): {parts}"
        memory = self.memory
        yield (
            f"memory: about {in_words(memory.total)}, excluding the program itself: weights "
            f"{in_words(memory.weights)}, gradients and optimizer {in_words(memory.training)}, activations "
            f"{in_words(memory.one_pass)}"
        )


def plan_of(tuned: TrainableModel, lengths: list[int], held_out: int, world: int) -> RunPlan:
    """Plan a run over samples of these lengths (tokens) in `world` processes."""
    recipe = tuned.recipe
    batches = math.ceil(len(lengths) / (recipe.batch * world))
    per_epoch = math.ceil(batches / recipe.accumulate)
    steps = math.ceil(recipe.epochs * per_epoch)
    counts = tuned.counts()
    return RunPlan(
        len(lengths),
        held_out,
        per_epoch,
        steps,
        math.ceil(recipe.warmup * steps),
        counts,
        num_parameters(tuned.model),
        estimate_training_memory(tuned, max(lengths), world),
    )
