"""evaluation/judging: a free answer -> the fact that it states, to be compared with the truth.

An answer is right when it states exactly one fact of the asked sort (one colour, one number, ...) and it is the true
one; descriptions and lists are right when they are right to the last character. Knows nothing about models.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..scenes import speech
from ..scenes.dialogue import Exchange
from ..scenes.vocabulary import BACKGROUNDS, COLOURS, KINDS, ZONES, Language

WHOLE = ("describe", "list", "shapes", "off topic", "absent")


@lru_cache(maxsize=64)
def facts(task: str, language: Language) -> tuple[str, ...]:
    """The facts that an answer to a task may state, in the same order in both languages."""
    if task == "name":
        return tuple(speech.noun(kind, language) for kind in KINDS)
    if task == "colour":
        return tuple(speech.hue(colour, language) for colour in COLOURS)
    if task == "background":
        return tuple(speech.ground(background, language) for background in BACKGROUNDS)
    if task in ("total", "count"):
        return tuple(speech.number(count, language) for count in range(11))
    if task == "where":
        return tuple(speech.place(zone, language) for zone in ZONES)
    if task == "follow-up":
        return (*facts("colour", language), *facts("where", language))
    if task == "relation":
        return ("左边", "右边", "上面", "下面") if language == "zh" else ("left", "right", "above", "below")
    raise KeyError(task)


def stated(task: str, language: Language, answer: str) -> str | None:
    """The one fact that an answer states; None when it states none or several."""
    if task in WHOLE:
        return answer
    if task == "exists":
        return _yes_or_no(answer)
    if task == "count" and (answer.startswith("图中没有") or "no " in answer):
        return speech.number(0, language)
    options = sorted(facts(task, language), key=len, reverse=True)
    before, after = (r"\b", r"\b") if language == "en" else ("", "")
    if language == "zh" and task in ("total", "count"):
        before = "(?<=有)"  # the ten of 十字形 is no number
    found = set(re.findall(f"{before}({'|'.join(map(re.escape, options))}){after}", answer))
    return found.pop() if len(found) == 1 else None


def is_right(exchange: Exchange, answer: str) -> bool:
    """Whether an answer states the truth of an exchange."""
    truth = exchange.answer if exchange.task in WHOLE else exchange.truth
    return stated(exchange.task, exchange.language, answer) == truth


def _yes_or_no(answer: str) -> str | None:
    if answer.startswith(("没有", "No")):
        return "no"
    return "yes" if answer.startswith(("有", "是", "Yes")) else None
