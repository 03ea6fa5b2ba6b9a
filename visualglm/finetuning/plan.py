"""finetuning/plan: what a run is going to do and need, said before it begins.

Knows nothing about data beyond lengths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..checkpoints.memory import in_words
from .memory import Memory, foretold
from .parts import Tuned, count_of


@dataclass(frozen=True)
class Plan:
    """Counts of a run, and the memory it is foretold to take."""

    learned: int
    held_out: int
    steps_per_epoch: int
    steps: int
    warmup: int
    trained: dict[str, int]
    total: int
    memory: Memory

    def lines(self) -> Iterator[str]:
        """What a user reads before the work."""
        yield f"samples: {self.learned} to learn from, {self.held_out} held out"
        yield f"steps: {self.steps_per_epoch} an epoch, {self.steps} in all, {self.warmup} of them warm-up"
        parts = ", ".join(f"{part} {count:,}" for part, count in self.trained.items() if count)
        trained = sum(self.trained.values())
        yield f"trained: {trained:,} of {self.total:,} numbers ({100 * trained / self.total:.2f} %): {parts}"
        memory = self.memory
        yield (
            f"memory, about {in_words(memory.total)} beside the program: weights {in_words(memory.weights)}, "
            f"gradients and optimizer {in_words(memory.training)}, a pass {in_words(memory.one_pass)}"
        )


def plan_of(tuned: Tuned, lengths: list[int], held_out: int, world: int) -> Plan:
    """The plan of a run over samples of these lengths (tokens), in `world` processes."""
    recipe = tuned.recipe
    batches = math.ceil(len(lengths) / (recipe.batch * world))
    per_epoch = math.ceil(batches / recipe.accumulate)
    steps = math.ceil(recipe.epochs * per_epoch)
    counts = tuned.counts()
    return Plan(
        len(lengths),
        held_out,
        per_epoch,
        steps,
        math.ceil(recipe.warmup * steps),
        counts,
        count_of(tuned.model),
        foretold(tuned, max(lengths), world),
    )
