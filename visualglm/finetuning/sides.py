"""finetuning/sides: a recipe's data -> what is learned from, what is held out, and the questions asked of the latter.

Two parts of one file, or of two. Knows nothing about training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..conversation import VisualGLM
from ..errors import UsageError
from .recipe import Finetuning
from .rows import RowFile
from .samples import Part, Samples, split
from .score import Asked


@dataclass(frozen=True)
class Sides:
    """What is learned from and what is held out: two parts of one file, or of two."""

    learned: Part
    held_out: Part | None

    def with_pixels(self, wanted: bool) -> Sides:
        sides = [None if part is None else Part(part.samples, list(part.indices), wanted) for part in self._both]
        assert sides[0] is not None
        return Sides(sides[0], sides[1])

    def pictures(self) -> list[str]:
        return [path for part in self._both if part for path in part.samples.picture_paths()]

    @property
    def _both(self) -> tuple[Part, Part | None]:
        return self.learned, self.held_out


def samples_of(recipe: Finetuning, file: str, model: VisualGLM) -> Samples:
    """The answers of a file, as the recipe reads it."""
    longest = recipe.max_tokens or model.model.config.max_sequence_length
    return Samples(RowFile(file), model.processor, longest, recipe.language, recipe.skip_bad)  # type: ignore[arg-type]


def sides_of(recipe: Finetuning, model: VisualGLM, say: Callable[[str], None]) -> Sides:
    """Both sides; rows that were left out are said.

    Raises:
        UsageError: no row can be learned from.
    """
    samples = samples_of(recipe, recipe.data, model)
    for message in samples.bad:
        say(f"left out: {message}")
    if not len(samples):
        raise UsageError(f"{recipe.data} has no row that can be learned from: see visualglm finetune --check.")
    if recipe.validation:
        others = samples_of(recipe, recipe.validation, model)
        return Sides(Part(samples, list(range(len(samples)))), Part(others, list(range(len(others)))))
    learned, held_out = split(samples, recipe.validation_share, recipe.seed)
    return Sides(Part(samples, learned), Part(samples, held_out) if held_out else None)


def held_out_questions(sides: Sides, count: int) -> list[Asked]:
    """The first held-out dialogues, as many as will be asked before and after."""
    if sides.held_out is None:
        return []
    chosen = []
    for index in sides.held_out.indices[:count]:
        sample, turns = sides.held_out.samples[index], sides.held_out.samples.turns(index)
        chosen.append(Asked(turns, sample["pictures"], turns[-1].answer))
    return chosen
