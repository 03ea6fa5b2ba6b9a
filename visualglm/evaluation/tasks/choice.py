"""Multiple choice (MMBench, CCBench, CMMMU), by likelihood and by generation with circular option order.

likelihood   the option with the highest mean log-probability per token as the answer to the bare question; the order of
             the options plays no role
generation   the options are listed, and the letter or the option's text is read from the answer
circular     the same in every rotation of the options: right only if all rotations are (MMBench's CircularEval)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...preprocessing.prompt import language_of
from ..examples import Example, Examples
from ..metrics import Metric
from ..queries import Query, Reply, ScoredRow, text_of

LETTERS = "ABCDEFGHIJ"
INSTRUCTION = {"zh": "请直接回答正确选项的字母。", "en": "Answer with the letter of the correct option."}
FIRST_LETTER = re.compile(r"[\s(（\[【\"'“]*([A-J])(?=\s*$|[.)）\]】、:：,，。]|\s+(?:is|are)\b|\n)")
"""At the beginning, and not the article of "A dog"."""
NAMED_LETTER = re.compile(
    r"(?:(?i:answer|option)(?:\s+is)?|答案|选项?|应选|是)\s*[为是]?\s*[:：]?\s*[(（]?\s*([A-J])(?![A-Za-z])"
)


class ChoiceTask:
    """Choose the right one of several options."""

    name = "choice"
    max_new_tokens = 32
    metrics = (
        Metric("likelihood", "likelihood"),
        Metric("generation", "generation"),
        Metric("circular", "circular"),
    )

    def __init__(self, examples: Examples) -> None:
        self.examples = examples.rows

    def queries(self, replies: Mapping[str, Reply]) -> list[Query]:
        scored = [
            Query(f"{row.id}/likelihood", row.row, row.image, row.image_key, row.question, options=row.options)
            for row in self.examples
        ]
        asked = [
            Query(_id(row, turn), row.row, row.image, row.image_key, list_options(row, turn))
            for row in self.examples
            for turn in range(len(row.options))
        ]
        return [*scored, *asked]

    def score(self, replies: Mapping[str, Reply]) -> list[ScoredRow]:
        return [self._scored(row, replies) for row in self.examples]

    def _scored(self, row: Example, replies: Mapping[str, Reply]) -> ScoredRow:
        truth = LETTERS.index(row.references[0])
        texts = [text_of(replies, _id(row, turn)) for turn in range(len(row.options))]
        chosen = [chosen_option(text, _rotated(row.options, turn), turn) for turn, (text, _) in enumerate(texts)]
        measured = replies.get(f"{row.id}/likelihood")
        scores = measured.scores if measured else None
        likely = scores.index(max(scores)) if scores else None
        statistics = {
            "likelihood": (float(likely == truth), 1.0),
            "generation": (float(chosen[0] == truth), 1.0),
            "circular": (float(all(choice == truth for choice in chosen)), 1.0),
        }
        errors = [error for _, own in texts for error in own]
        quality = sum(value for value, _ in statistics.values()) / 3
        likely_text = "" if likely is None else f"{LETTERS[likely]}. {row.options[likely]}"
        said = [(list_options(row, 0), texts[0][0]), ("likelihood", likely_text)]
        expected = f"{row.references[0]}. {row.options[truth]}"
        facets = {"language": language_of(row.question), **row.facets}
        return ScoredRow(
            row.id, row.row, row.image_key, statistics, quality, said, expected, facets, errors[:1], row.image
        )

    def baselines(self) -> Mapping[str, float]:
        """Guessing."""
        chance = sum(1 / len(row.options) for row in self.examples) / len(self.examples)
        return {"likelihood": chance, "generation": chance}


def _id(row: Example, turn: int) -> str:
    return f"{row.id}/order{turn}"


def _rotated(options: Sequence[str], turn: int) -> list[str]:
    return [*options[turn:], *options[:turn]]


def list_options(row: Example, turn: int) -> str:
    """Build the question with its options, rotated by `turn`."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, _rotated(row.options, turn), strict=False)]
    return "\n".join([row.question, *lines, INSTRUCTION[language_of(row.question)]])


def chosen_option(answer: str, listed: Sequence[str], turn: int) -> int | None:
    """Return the index, in the data's order, of the option that an answer chooses; None if that is unclear.

    A letter at the beginning counts, then one that is called the answer, then the only option whose text occurs.
    """
    letter = FIRST_LETTER.match(answer) or NAMED_LETTER.search(answer)
    if letter is not None:
        position = LETTERS.index(letter[1].upper())
        return (position + turn) % len(listed) if position < len(listed) else None
    lower = answer.lower()
    found = [position for position, option in enumerate(listed) if option.strip() and option.lower().strip() in lower]
    found = [one for one in found if not any(one != other and listed[one] in listed[other] for other in found)]
    return (found[0] + turn) % len(listed) if len(found) == 1 else None
