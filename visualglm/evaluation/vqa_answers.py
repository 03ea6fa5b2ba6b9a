"""Normalisation and accuracy of short answers, as VQA's evaluation defines them.

Rules (visualqa.org, evaluation): line breaks become blanks, punctuation is removed, periods go unless they belong to a
number, everything is lower case, number words become digits, articles go, contractions get their apostrophe.
Punctuation becomes a blank unless it stands beside a blank or the text has a comma between digits. Chinese punctuation
is treated in the same way, and blanks between Chinese characters go.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!。，！？；：、“”'
DIGITS = dict(
    zip(
        ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        ("0", *map(str, range(11))),
        strict=True,
    )
)
ARTICLES = ("a", "an", "the")
COMMA_IN_NUMBER = re.compile(r"\d,\d")
BLANK_IN_CHINESE = re.compile(r"(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])")
PERIOD = re.compile(r"(?<!\d)\.(?!\d)")
NEGATED = (
    *("ain", "aren", "can", "couldn", "didn", "doesn", "don", "hadn", "hasn", "haven", "isn", "mightn", "mustn"),
    *("needn", "oughtn", "shan", "shouldn", "wasn", "weren", "won", "wouldn"),
)
WITH_HAVE = ("could", "might", "must", "should", "would")
OTHERS = (
    *("'tis", "'twas", "he's", "how'd", "how'll", "how's", "i'd've", "i'm", "i've", "it'd", "it'd've", "it'll"),
    *("let's", "ma'am", "not've", "o'clock", "she's", "somebody'll", "somebody's", "someone'd", "someone'll"),
    *("someone's", "something'd", "something'll", "that's", "there'd", "there're", "there's", "they'd", "they'll"),
    *("they're", "they've", "we've", "what'll", "what're", "what's", "what've", "when's", "where'd", "where's"),
    *("where've", "who'd", "who'll", "who's", "who've", "why'll", "why're", "why's", "y'all", "you'd", "you'll"),
    *("you're", "you've"),
)


def _spellings() -> dict[str, str]:
    """Map contractions without one or all of their apostrophes to the full spelling."""
    full = [f"{verb}'t" for verb in NEGATED] + [f"{verb}'ve" for verb in WITH_HAVE] + list(OTHERS)
    full += [f"{verb}n't've" for verb in ("could", "had", "might", "should", "would")]
    table = {}
    for word in full:
        places = [index for index, character in enumerate(word) if character == "'"]
        table[word.replace("'", "")] = word
        table |= {word[:index] + word[index + 1 :]: word for index in places}
    return table


CONTRACTIONS = _spellings()


def normalize(answer: str) -> str:
    """Normalise an answer."""
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", answer)).strip()
    keeps_no_blank = COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        text = text.replace(mark, "" if beside_blank or keeps_no_blank else " ")
    text = PERIOD.sub("", text).lower()
    words = (DIGITS.get(word, word) for word in text.split())
    text = " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
    return BLANK_IN_CHINESE.sub("", text)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Score a normalised answer against normalised references, 0 to 1.

    With the ten annotators of VQA: the mean over every nine of them of min(1, matches / 3). With one or two references
    an answer is right if it equals one of them.
    """
    if len(references) < 3:
        return float(answer in references)
    matches = sum(reference == answer for reference in references)
    left_out = [matches - (reference == answer) for reference in references]
    return sum(min(1.0, count / 3) for count in left_out) / len(references)


def mentions(answer: str, reference: str) -> bool:
    """Return True if a normalised answer contains a reference as whole words; Chinese has no blanks between words."""
    if not reference:
        return False
    if reference.isascii():
        return re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", answer) is not None
    return reference in answer


def short_answer_statistics(answer: str, references: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """Compute the three statistics of one answer; an empty one is wrong."""
    given = normalize(answer)
    wanted = [normalize(reference) for reference in references]
    return {
        "vqa": (vqa_accuracy(given, wanted) if given else 0.0, 1.0),
        "exact": (float(bool(given) and given in wanted), 1.0),
        "mention": (float(any(mentions(given, reference) for reference in wanted)), 1.0),
    }
