"""The words of an answer, each with the tokens that write it.

A word is a run of letters and digits, or in Chinese the characters of one token, which often has several.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..preprocessing.incremental_decoder import IncrementalDecoder
from ..preprocessing.prompt import CHINESE
from ..preprocessing.tokenizer import ChatGLMTokenizer


@dataclass(frozen=True)
class Word:
    """A word, and the positions of its tokens in the answer."""

    text: str
    tokens: tuple[int, ...]


def words_of(tokenizer: ChatGLMTokenizer, ids: Sequence[int]) -> list[Word]:
    """Return the words of an answer in order; punctuation is left out."""
    words: list[Word] = []
    text, writers = _characters(tokenizer, ids)
    begun: tuple[str, tuple[int, ...]] | None = None
    for index, character in enumerate(text):
        kind = _kind(character, text[index - 1 : index], text[index + 1 : index + 2])
        if not kind:
            begun = None
            continue
        unit = kind, writers[index] if kind == "chinese" else ()
        if unit == begun:
            tokens = tuple(sorted({*words[-1].tokens, *writers[index]}))
            words[-1] = Word(words[-1].text + character, tokens)
        else:
            words.append(Word(character, writers[index]))
        begun = unit
    return words


def find_word(tokenizer: ChatGLMTokenizer, ids: Sequence[int], wanted: str) -> Word:
    """Return what the answer writes as `wanted`, whatever its case, with the tokens of every occurrence.

    Raises:
        UsageError: the answer does not contain it; the message lists its words.
    """
    text, writers = _characters(tokenizer, ids)
    pattern = re.escape(wanted.strip())
    if not CHINESE.search(wanted):
        pattern = rf"(?<![^\W_]){pattern}(?![^\W_])"
    places = [place for found in re.finditer(pattern, text, re.IGNORECASE) for place in range(*found.span())]
    if not places or not wanted.strip():
        known = ", ".join(dict.fromkeys(word.text for word in words_of(tokenizer, ids))) or "none"
        raise UsageError(f"The answer has no word {wanted!r:.60}. Its words are: {known}.")
    tokens = tuple(sorted({token for place in places for token in writers[place]}))
    return Word(wanted.strip(), tokens)


def _characters(tokenizer: ChatGLMTokenizer, ids: Sequence[int]) -> tuple[str, list[tuple[int, ...]]]:
    """Return the text of the ids, and the tokens that write each character (several where it is written in bytes)."""
    decoder = IncrementalDecoder(tokenizer)
    writers: list[tuple[int, ...]] = []
    held: list[int] = []
    for place, index in enumerate(ids):
        held.append(place)
        piece = decoder.push(index) + (decoder.finish() if place == len(ids) - 1 else "")
        writers += [tuple(held)] * len(piece)
        held = [] if piece else held
    return decoder.text, writers


def _kind(character: str, before: str, after: str) -> str:
    """Return `chinese`, `letters`, or an empty string for what belongs to no word; "don't" is one word."""
    if CHINESE.match(character):
        return "chinese"
    joins = character in "'’-" and before.isalnum() and after.isalnum() and not CHINESE.search(before + after)
    return "letters" if character.isalnum() or joins else ""
