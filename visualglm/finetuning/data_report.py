"""What a data file holds, said in lines: rows, lengths, balance of answers, broken rows, samples.

`visualglm finetune --check` prints it. Reads rows through `samples`, so it shows what training would see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from ..preprocessing.prompt import IGNORED_LABEL
from .dataset import FinetuningDataset

SHOWN_SAMPLES, SHOWN_ANSWERS, SHOWN_BAD = 3, 10, 20


def findings(samples: FinetuningDataset) -> Iterator[str]:
    """The lines."""
    rows = len(samples.rows) - len(samples.bad)
    yield f"{samples.rows.path}: {rows} rows, {len(samples)} answers to learn, {len(samples.bad)} broken rows"
    yield from (f"  broken: {message}" for message in samples.bad[:SHOWN_BAD])
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
    yield f"answers: {len(answers)} different ones; the commonest:"
    for answer, count in answers.most_common(SHOWN_ANSWERS):
        short = answer if len(answer) <= 60 else answer[:59] + "…"
        yield f"  {100 * count / len(samples):5.1f} %  {short!r}"


def _sample(samples: FinetuningDataset, index: int) -> Iterator[str]:
    """The decoded ids, pictures as `<img>…</img>`, what is trained between ⟦ and ⟧."""
    sample, processor = samples[index], samples.processor
    context = [id for id, label in zip(sample["input_ids"], sample["labels"], strict=True) if label == IGNORED_LABEL]
    trained = [label for label in sample["labels"] if label != IGNORED_LABEL]
    runs = groupby(context, lambda id: id == processor.image_token_id)
    text = "".join(processor.tokenizer.decode(list(ids)) for slots, ids in runs if not slots).replace(
        "<img></img>", "<img>…</img>"
    )
    learned = processor.tokenizer.decode(trained)
    yield f"sample {index + 1} (row {sample['row'] + 1}, {len(sample['pictures'])} pictures): {text}⟦{learned}⟧"
