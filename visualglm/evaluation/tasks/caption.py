"""Captions: CIDEr, BLEU and ROUGE-L as COCO's evaluation computes them (pycocoevalcap's scorers, which need no Java).

The scorers are imported when captions are scored: fine-tuning reads the list of tasks without the extra `[eval]`. Only
the tokenizer differs from COCO's, which is a Java program: words are lower-case runs of letters and digits, and every
Chinese character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from ...preprocessing.prompt import language_of
from ..examples import Example, Examples
from ..metrics import Array, Metric, ratio
from ..queries import Query, Reply, ScoredRow, text_of

WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+(?:['’][^\W_\u3400-\u9fff]+)*")
ORDERS = 4
"""Length of the longest n-gram of BLEU."""
SMALL, TINY = 1e-9, 1e-15
"""COCO's guards against a division by zero and a product of zero."""


def bleu(order: int, sums: Array) -> Array:
    """Corpus BLEU from sums [..., matches of 1-4 grams, n-grams of 1-4, length, reference length], as in COCO."""
    matches, possible = sums[..., :order], sums[..., ORDERS : ORDERS + order]
    precision = np.exp(np.log((matches + TINY) / (possible + SMALL)).mean(-1))
    length = (sums[..., 2 * ORDERS] + TINY) / (sums[..., 2 * ORDERS + 1] + SMALL)
    return np.where(length < 1, precision * np.exp(1 - ratio(np.ones_like(length), length)), precision)


class CaptionTask:
    """Describe images; compare with all captions that people wrote."""

    name = "caption"
    max_new_tokens = 80
    metrics = (
        Metric("CIDEr", "cider", top=None),
        Metric("BLEU-4", "bleu", partial(bleu, 4)),
        Metric("BLEU-1", "bleu", partial(bleu, 1)),
        Metric("ROUGE-L", "rouge"),
    )

    def __init__(self, examples: Examples) -> None:
        self.examples = examples.rows

    def queries(self, replies: Mapping[str, Reply]) -> list[Query]:
        return [Query(row.id, row.row, row.image, row.image_key, row.question) for row in self.examples]

    def score(self, replies: Mapping[str, Reply]) -> list[ScoredRow]:
        said = [text_of(replies, row.id) for row in self.examples]
        answers = [tokenize(text) for text, _ in said]
        references = [[tokenize(reference) for reference in row.references] for row in self.examples]
        statistics = caption_statistics(answers, references)
        return [
            _scored(row, text, errors, found)
            for row, (text, errors), found in zip(self.examples, said, statistics, strict=True)
        ]

    def baselines(self) -> Mapping[str, float]:
        return {}


def _scored(row: Example, text: str, errors: Sequence[str], statistics: Mapping[str, tuple[float, ...]]) -> ScoredRow:
    facets = {"language": language_of(row.references[0]), **row.facets}
    said, expected = [(row.question, text)], " / ".join(row.references)
    quality = statistics["cider"][0] / 10 + statistics["rouge"][0] / 1000
    return ScoredRow(row.id, row.row, row.image_key, statistics, quality, said, expected, facets, errors, row.image)


def tokenize(text: str) -> str:
    """Return the words of a text, separated by blanks."""
    return " ".join(WORD.findall(text.lower()))


def caption_statistics(
    answers: Sequence[str], references: Sequence[Sequence[str]]
) -> list[dict[str, tuple[float, ...]]]:
    """Compute the statistics of each tokenized answer; CIDEr weights words by their frequency in all references."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu_scorer = BleuScorer(n=ORDERS)
    for answer, own in zip(answers, references, strict=True):
        bleu_scorer += (answer, list(own))
    given = {number: [answer] for number, answer in enumerate(answers)}
    wanted = {number: list(own) for number, own in enumerate(references)}
    _, ciders = Cider().compute_score(wanted, given)
    _, rouges = Rouge().compute_score(wanted, given)
    return [
        {"cider": (float(cider), 1.0), "rouge": (float(rouge), 1.0), "bleu": _bleu_counts(counts)}
        for cider, rouge, counts in zip(ciders, rouges, bleu_scorer.ctest, strict=True)
    ]


def _bleu_counts(counts: Mapping[str, list[int]]) -> tuple[float, ...]:
    length: int = counts["testlen"]  # type: ignore[assignment]
    closest = min((abs(reference - length), reference) for reference in counts["reflen"])[1]
    return tuple(map(float, (*counts["correct"], *counts["guess"], length, closest)))
