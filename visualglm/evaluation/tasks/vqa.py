"""Short answers: VQA accuracy with its normalisation, exact match, and answers that mention the right one.

A model that answers in sentences scores near 0 by the first two; `mention` tells whether it knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ...preprocessing.prompt import language_of
from ..examples import Example, Examples
from ..metrics import Metric
from ..queries import Query, Reply, ScoredRow, text_of
from ..vqa_answers import normalize, short_answer_statistics, vqa_accuracy


class VqaTask:
    """Ask questions whose answers are words."""

    name = "vqa"
    max_new_tokens = 32
    metrics = (Metric("VQA accuracy", "vqa"), Metric("exact match", "exact"), Metric("mention", "mention"))

    def __init__(self, examples: Examples) -> None:
        self.examples = examples.rows

    def queries(self, replies: Mapping[str, Reply]) -> list[Query]:
        return [Query(row.id, row.row, row.image, row.image_key, row.question) for row in self.examples]

    def score(self, replies: Mapping[str, Reply]) -> list[ScoredRow]:
        return [self._scored(row, replies) for row in self.examples]

    def _scored(self, row: Example, replies: Mapping[str, Reply]) -> ScoredRow:
        text, errors = text_of(replies, row.id)
        statistics = short_answer_statistics(text, row.references)
        quality = (statistics["vqa"][0] + statistics["mention"][0]) / 2
        facets = {"language": language_of(row.question), **row.facets}
        expected = " / ".join(dict.fromkeys(row.references))
        said = [(row.question, text)]
        return ScoredRow(row.id, row.row, row.image_key, statistics, quality, said, expected, facets, errors, row.image)

    def baselines(self) -> Mapping[str, float]:
        """Return the accuracy of always giving the answer that is right most often."""
        references = [[normalize(reference) for reference in row.references] for row in self.examples]
        commonest = Counter(word for own in references for word in own).most_common(1)[0][0]
        return {"VQA accuracy": sum(vqa_accuracy(commonest, own) for own in references) / len(references)}
