"""Compare free-form answers with the truth.

An answer is right if it states exactly one fact of the requested type (one name, one colour, one number, ...) and that
fact is true. Descriptions and lists are right only if every character matches.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .scenes import answers
from .scenes.concepts import kinds
from .scenes.kinds import BACKGROUNDS, CATEGORIES, COLOURS, ZONES, Kind, Language
from .scenes.qa_pair import QAPair
from .scenes.question_templates import ZH_NUMBERS

VERBATIM = ("describe", "list", "shapes", "off topic", "absent")
NAMES = ("name", "size", "odd")
YES_OR_NO = ("exists", "any", "same colour")
SIDES: dict[Language, tuple[str, ...]] = {
    "zh": ("左边", "右边", "上面", "下面"),
    "en": ("left", "right", "above", "below"),
}
# Only the text after the last of these words is searched: names may contain colours and sides (left arrow).
VERBS: dict[Language, str] = {"zh": "[是在]", "en": r"\bis\b"}
NEGATION = re.compile(r"不是| is not ")


@lru_cache(maxsize=64)
def facts(task: str, language: Language) -> tuple[str, ...]:
    """List the facts that an answer to a task may state, in the same order in both languages.

    Raises:
        KeyError: the task has no such list.
    """
    if task in NAMES:
        return tuple(answers.noun(kind, language) for kind in kinds())
    if task == "colour":
        return tuple(answers.hue(colour, language) for colour in COLOURS)
    if task == "background":
        return tuple(answers.ground(background, language) for background in BACKGROUNDS)
    if task in ("total", "count"):
        return tuple(answers.number(count, language) for count in range(11))
    if task == "where":
        return tuple(answers.place(zone, language) for zone in ZONES)
    if task == "category":
        return tuple(answers.category(key, language) for key in CATEGORIES)
    if task == "follow-up":
        return (*facts("colour", language), *facts("where", language), *facts("category", language))
    if task in YES_OR_NO:
        return ("yes", "no")
    if task == "relation":
        return SIDES[language]
    raise KeyError(task)


def stated_fact(task: str, language: Language, answer: str) -> str | None:
    """Return the one fact that an answer states, or None if it states none or several."""
    if task in VERBATIM:
        return answer
    if task in YES_OR_NO:
        return _yes_or_no(answer)
    if task in NAMES:
        kind = named_kind(NEGATION.split(answer)[0], language)
        return answers.noun(kind, language) if kind else None
    if task in ("count", "total") and (answer.startswith("图中没有") or re.search(r"\bno\b", answer)):
        return answers.number(0, language)
    found = set(_pattern(task, language).findall(_decisive_part(task, language, answer)))
    return found.pop() if len(found) == 1 else None


def find_facts(task: str, language: Language, answer: str) -> set[str]:
    """Return all facts of a task that occur anywhere in an answer."""
    return set(_pattern(task, language).findall(answer))


def is_right(exchange: QAPair, answer: str) -> bool:
    """Return True if the answer states the truth of a question-answer pair."""
    truth = exchange.answer if exchange.task in VERBATIM else exchange.truth
    return stated_fact(exchange.task, exchange.language, answer) == truth


def same_fact(task: str, zh: str, en: str) -> bool:
    """Return True if a Chinese and an English answer state the same fact."""
    pair: tuple[tuple[Language, str], ...] = (("zh", zh), ("en", en))
    stated = [(facts(task, language), stated_fact(task, language, answer)) for language, answer in pair]
    indices = [options.index(fact) if fact in options else -1 for options, fact in stated]
    return indices[0] == indices[1] != -1


def named_kind(answer: str, language: Language) -> Kind | None:
    """Return the one kind that an answer names by any of its names, else None; the longest name wins (hot dog)."""
    names = _names(language)
    found = {names[name] for name in _name_pattern(language).findall(_modifiers(language).sub("", answer))}
    return found.pop() if len(found) == 1 else None


def _yes_or_no(answer: str) -> str | None:
    if answer.startswith(("没有", "不", "No")):
        return "no"
    return "yes" if answer.startswith(("有", "是", "一样", "Yes")) else None


def _decisive_part(task: str, language: Language, answer: str) -> str:
    """Return the text after the verb; for numbers and backgrounds, the whole answer."""
    if task in ("total", "count", "background"):
        return answer
    return re.split(VERBS[language], answer)[-1]


@lru_cache(maxsize=64)
def _pattern(task: str, language: Language) -> re.Pattern[str]:
    """Compile a pattern that finds a task's facts, the longest first."""
    options = sorted(facts(task, language), key=len, reverse=True)
    before, after = (r"\b", r"\b") if language == "en" else ("", "")
    if task in ("total", "count"):
        before = "(?<=有)" if language == "zh" else r"(?:(?<=is )|(?<=are ))"  # the 十 of 十字形 (cross) is not a 10
    return re.compile(f"{before}({'|'.join(map(re.escape, options))}){after}")


@lru_cache(maxsize=2)
def _names(language: Language) -> dict[str, Kind]:
    return {name: kind for kind in kinds() for name in (kind.zh if language == "zh" else kind.en)}


@lru_cache(maxsize=2)
def _name_pattern(language: Language) -> re.Pattern[str]:
    names = "|".join(re.escape(name) for name in sorted(_names(language), key=len, reverse=True))
    return re.compile(rf"\b({names})\b" if language == "en" else f"({names})")


@lru_cache(maxsize=2)
def _modifiers(language: Language) -> re.Pattern[str]:
    """Compile a pattern of measure words and colours, except those that are part of a name.

    They can look like names: 头 (head) in 一头大象 (an elephant), orange in "an orange fish".
    """
    if language == "zh":
        measures = "|".join(sorted({kind.measure for kind in kinds()}))
        colours = "|".join(colour.zh for colour in COLOURS)
        return re.compile(f"(?<=[是有])[{''.join(ZH_NUMBERS)}](?:{measures})(?![。，])|(?:{colours})的")
    colours = "|".join(colour.key for colour in COLOURS)
    coloured = [re.escape(name) for name in _names("en") if re.match(f"(?:{colours}) ", name)]
    return re.compile(rf"\b(?!(?:{'|'.join(coloured)})\b)(?:{colours}) (?=\w)")
