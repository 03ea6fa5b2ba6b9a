"""Split of a recipe's data into training and validation samples, and the questions asked before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..datasets.data_files import DataFile
from ..errors import UsageError
from ..preprocessing.images import VisualGLMImageProcessor
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.prompt import IGNORED_LABEL, Language
from .config import Finetuning
from .dataset import FinetuningDataset, SubsetDataset, split_dataset
from .evaluation import EvalQuestion


@dataclass(frozen=True)
class DataSplits:
    """Samples to train on and samples held out, from one file or from two."""

    learned: SubsetDataset
    held_out: SubsetDataset | None

    def with_pixels(self, wanted: bool) -> DataSplits:
        sides = [
            None if part is None else SubsetDataset(part.samples, list(part.indices), wanted) for part in self._both
        ]
        assert sides[0] is not None
        return DataSplits(sides[0], sides[1])

    @property
    def image_processor(self) -> VisualGLMImageProcessor:
        return self.learned.samples.processor.image_processor

    def images(self) -> list[str]:
        return [path for part in self._both if part for path in part.samples.image_paths()]

    @property
    def _both(self) -> tuple[SubsetDataset, SubsetDataset | None]:
        return self.learned, self.held_out


def read_samples(recipe: Finetuning, file: str, processor: VisualGLMProcessor, max_tokens: int) -> FinetuningDataset:
    """Read the training samples of a file with the recipe's settings."""
    language: Language = recipe.language  # type: ignore[assignment]
    return FinetuningDataset(DataFile(file), processor, max_tokens, language, recipe.skip_bad, recipe.sop_loss)


def split_data(
    recipe: Finetuning, processor: VisualGLMProcessor, max_tokens: int, say: Callable[[str], None]
) -> DataSplits:
    """Read the data and split it; `say` receives a line per skipped row.

    Raises:
        UsageError: no row can be used for training.
    """
    samples = read_samples(recipe, recipe.data, processor, max_tokens)
    for message in samples.bad:
        say(f"skipped: {message}")
    if not len(samples):
        raise UsageError(f"{recipe.data} has no row to train on. Run visualglm finetune --check.")
    if recipe.validation:
        others = read_samples(recipe, recipe.validation, processor, max_tokens)
        return DataSplits(
            SubsetDataset(samples, list(range(len(samples)))), SubsetDataset(others, list(range(len(others))))
        )
    learned, held_out = split_dataset(samples, recipe.validation_share, recipe.seed)
    return DataSplits(SubsetDataset(samples, learned), SubsetDataset(samples, held_out) if held_out else None)


def answer_words(sides: DataSplits, count: int) -> list[int]:
    """Return at most `count` different token ids of trained answers, from samples spread over the data."""
    words: dict[int, None] = {}
    indices = sides.learned.indices
    sop = sides.learned.samples.processor.tokenizer.bos_token_id
    for index in indices[:: max(1, len(indices) // count)]:
        labels = sides.learned.samples[index]["labels"]
        words |= dict.fromkeys([label for label in labels[:-1] if label not in (IGNORED_LABEL, sop, *words)][:1])
    return list(words)[:count]


def held_out_questions(sides: DataSplits, count: int) -> list[EvalQuestion]:
    """Return the first `count` held-out chats as questions to ask before and after training."""
    if sides.held_out is None:
        return []
    chosen = []
    for index in sides.held_out.indices[:count]:
        sample, turns = sides.held_out.samples[index], sides.held_out.samples.turns(index)
        chosen.append(EvalQuestion(turns, sample["images"], turns[-1].answer))
    return chosen
