"""Read yes or no from an answer in Chinese or English."""

from __future__ import annotations

import re
from typing import Literal

NO_FIRST = re.compile(r"(?:no|not|nope)\b|没|不|否|无", re.IGNORECASE)
YES_FIRST = re.compile(r"(?:yes|yeah|yep)\b|有|是|对|能|可以|存在|一样|相同", re.IGNORECASE)
NO_WITHIN = re.compile(
    r"\b(?:no|not|cannot|none)\b|n't\b|没有|没看到|看不到|看不见|不存在|不是|并未|并无", re.IGNORECASE
)
YES_WITHIN = re.compile(
    r"\b(?:yes|there (?:is|are)|(?:can|do) see|shows?|contains?)\b|有|是的|存在|看到", re.IGNORECASE
)
END_OF_SENTENCE = re.compile(r"[.。!！?？\n]")


def yes_or_no(answer: str) -> Literal["yes", "no"] | None:
    """Return what the first sentence of an answer states; None if it states neither."""
    first = END_OF_SENTENCE.split(answer.strip().lstrip("\"'“‘(（"))[0]
    if NO_FIRST.match(first):
        return "no"
    if YES_FIRST.match(first):
        return "yes"
    if NO_WITHIN.search(first):
        return "no"
    return "yes" if YES_WITHIN.search(first) else None


def parse_label(text: str) -> Literal["yes", "no"] | None:
    """Return the truth that a data file states: yes, no, true, false, 是, 否, 有, 没有."""
    word = text.strip().rstrip(".。").lower()
    if word in ("yes", "true", "1", "是", "有", "对"):
        return "yes"
    return "no" if word in ("no", "false", "0", "否", "不是", "没有", "不") else None
