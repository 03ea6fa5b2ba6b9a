"""Report on a data file: rows, lengths, balance of answers, invalid rows, samples.

`visualglm finetune --check` prints it. Rows are read as training reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from ..preprocessing.prompt import IGNORED_LABEL
from .dataset import FinetuningDataset

SHOWN_SAMPLES, SHOWN_ANSWERS, SHOWN_BAD = 3, 10, 20


def findings(samples: FinetuningDataset) -> Iterator[str]:
    """Yield the lines of the report."""
    rows = len(samples.rows) - len(samples.bad)
    yield f"{samples.rows.path}: {rows} rows, {len(samples)} answers to train on, {len(samples.bad)} invalid rows"
    yield from (f"  invalid: {message}" for message in samples.bad[:SHOWN_BAD])
    if len(samples.bad) > SHOWN_BAD:
        yield f"  ... and {len(samples.bad) - SHOWN_BAD} more"
    if len(samples):
        lengths = sorted(samples.lengths)
        yield (
            f"lengths in tokens: shortest {lengths[0]}, median {lengths[len(lengths) // 2]}, longest {lengths[-1]} "
            f"(at most {samples.max_tokens})"
        )
        yield from _balance(samples)
        for index in range(min(SHOWN_SAMPLES, len(samples))):
            yield from _sample(samples, index)


def _balance(samples: FinetuningDataset) -> Iterator[str]:
    answers = Counter(samples.turns(index)[-1].answer or "" for index in range(len(samples)))
    yield f"answers: {len(answers)} different ones; the most common:"
    for answer, count in answers.most_common(SHOWN_ANSWERS):
        short = answer if len(answer) <= 60 else answer[:59] + "…"
        yield f"  {100 * count / len(samples):5.1f} %  {short!r}"


def _sample(samples: FinetuningDataset, index: int) -> Iterator[str]:
    """Show the decoded ids, images as `<img>…</img>` and the trained answer between ⟦ and ⟧."""
    sample, processor = samples[index], samples.processor
    context = [id for id, label in zip(sample["input_ids"], sample["labels"], strict=True) if label == IGNORED_LABEL]
    trained = [label for label in sample["labels"] if label != IGNORED_LABEL]
    runs = groupby(context, lambda id: id == processor.image_token_id)
    text = "".join(processor.tokenizer.decode(list(ids)) for is_image, ids in runs if not is_image).replace(
        "<img></img>", "<img>…</img>"
    )
    learned = processor.tokenizer.decode(trained)
    yield f"sample {index + 1} (row {sample['row'] + 1}, {len(sample['images'])} images): {text}⟦{learned}⟧"
