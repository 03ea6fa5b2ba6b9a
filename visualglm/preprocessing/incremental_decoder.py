"""Decode ids one by one into text for streaming.

In: ids. Out: pieces of text. Their concatenation equals the text of all ids decoded at once. Text that a later id may
still change is held back: bytes of an incomplete character, the beginning of `<|blank_4|>`, a space that punctuation
may remove, and with `process=True` trailing space and punctuation that a Chinese character may make full-width.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from .tokenizer import FULL_WIDTH, TRAINING_TIME, ChatGLMTokenizer, clean_up_spaces, to_fullwidth, unfold_whitespace

INCOMPLETE_PIECE = re.compile(r"<(?:n|\|[a-z0-9_]{0,8}\|?)?\Z")
# every pattern of `clean_up_spaces` is a space, then any of these characters, then one last character
UNDECIDED_SPACE = re.compile(r" [ 'nvr]*\Z")
TRAINING_TIME_PREFIXES = [re.escape(TRAINING_TIME[:length]) for length in range(len(TRAINING_TIME) - 1, 0, -1)]
UNDECIDED_WIDTH = re.compile(f"(?:{'|'.join(TRAINING_TIME_PREFIXES)}|[{''.join(FULL_WIDTH)}])\\Z")


class IncrementalDecoder:
    """Incremental decoder: all pushes and `finish`, joined, equal `tokenizer.decode(ids)`.

    With `process=True` they equal `process_response(tokenizer.decode(ids))`. U+FFFD appears only where bytes can no
    longer become a character. Ids outside the vocabulary are ignored. `text` is the text returned so far.
    """

    def __init__(self, tokenizer: ChatGLMTokenizer, process: bool = False) -> None:
        self.tokenizer = tokenizer
        self.text = ""
        self._held: list[int] = []
        self._before: list[int] = []
        self._stages: list[_TextRule | _TextStrip] = [_TextRule(unfold_whitespace, INCOMPLETE_PIECE)]
        if tokenizer.clean_up_tokenization_spaces:
            self._stages.append(_TextRule(clean_up_spaces, UNDECIDED_SPACE))
        if process:
            self._stages += [_TextStrip(), _TextRule(to_fullwidth, UNDECIDED_WIDTH, looks_back=True)]

    def push(self, index: int) -> str:
        """Add an id; return the text that is now final, often empty."""
        if not self.tokenizer.is_ignored(int(index)):
            self._held.append(int(index))
        return self._take(final=False)

    def finish(self) -> str:
        """Return the text that is still held back."""
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        ready = len(self._held) if final else len(self._held) - self._count_incomplete_bytes()
        text = self._decode(self._held[:ready])
        del self._held[:ready]
        for stage in self._stages:
            text = stage.feed(text, final)
        self.text += text
        return text

    def _decode(self, ids: list[int]) -> str:
        """Return the raw text that `ids` add; SentencePiece drops the space of a leading `▁` only."""
        known = len(self.tokenizer.raw_text(self._before))
        text = self.tokenizer.raw_text(self._before + ids)[known:]
        ordinary = any(not self.tokenizer.is_control(index) for index in ids)
        self._before = ids if ordinary else self._before + ids
        return text

    def _count_incomplete_bytes(self) -> int:
        """Count the ids at the end that begin a character whose other bytes may still follow."""
        tail = bytearray()
        for index in reversed(self._held):
            byte = self.tokenizer.byte_of(index)
            if byte is None:
                break
            tail.insert(0, byte)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        decoder.decode(bytes(tail))
        return len(decoder.getstate()[0])


class _TextRule:
    """Apply a function to growing text, up to where later text could change the result.

    `looks_back`: the function also reads the previous character of its own output.
    """

    def __init__(self, apply: Callable[[str], str], undecided: re.Pattern[str], looks_back: bool = False) -> None:
        self._apply = apply
        self._undecided = undecided
        self._looks_back = looks_back
        self._held = ""
        self._before = ""

    def feed(self, text: str, final: bool) -> str:
        text = self._held + text
        found = None if final else self._undecided.search(text)
        cut = found.start() if found else len(text)
        self._held, text = text[cut:], text[:cut]
        text = self._apply(self._before + text)[len(self._before) :]
        if self._looks_back:
            self._before = text[-1:] or self._before
        return text


class _TextStrip:
    """Apply `str.strip` to growing text: trailing space is held back."""

    def __init__(self) -> None:
        self._held = ""
        self._started = False

    def feed(self, text: str, final: bool) -> str:
        text = self._held + text
        if not self._started:
            text = text.lstrip()
        kept = text.rstrip()
        self._started = self._started or bool(kept)
        self._held = "" if final else text[len(kept) :]
        return kept
