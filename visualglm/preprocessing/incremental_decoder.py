"""Ids that arrive one by one, to text that only ever grows.

In: ids. Out: pieces of text whose concatenation is exactly the text of all ids at once. What a later id may still
change is held back: bytes of an unfinished character, the beginning of `<|blank_4|>`, a space that punctuation may
swallow, and with `process=True` trailing space and punctuation that a Chinese character may widen. Knows nothing about
models or threads.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from .tokenizer import FULL_WIDTH, TRAINING_TIME, ChatGLMTokenizer, clean_up_spaces, to_fullwidth, unfold_whitespace

UNFINISHED_PIECE = re.compile(r"<(?:n|\|[a-z0-9_]{0,8}\|?)?\Z")
# every rule of `clean_up_spaces` begins with a space and is otherwise made of these, its last character excepted
UNDECIDED_SPACE = re.compile(r" [ 'nvr]*\Z")
TRAINING_TIME_BEGINNINGS = [re.escape(TRAINING_TIME[:length]) for length in range(len(TRAINING_TIME) - 1, 0, -1)]
UNDECIDED_WIDTH = re.compile(f"(?:{'|'.join(TRAINING_TIME_BEGINNINGS)}|[{''.join(FULL_WIDTH)}])\\Z")


class IncrementalDecoder:
    """Feeds on ids, yields text: the pushes and `finish` together are `tokenizer.decode(ids)` to the character.

    With `process=True` they are `process_response(tokenizer.decode(ids))`. A U+FFFD appears only where the bytes can
    no longer become a character. Ids outside the vocabulary are nothing, and never raise. `text` is what was yielded.
    """

    def __init__(self, tokenizer: ChatGLMTokenizer, process: bool = False) -> None:
        self.tokenizer = tokenizer
        self.text = ""
        self._held: list[int] = []
        self._before: list[int] = []
        self._stages: list[_Rule | _Strip] = [_Rule(unfold_whitespace, UNFINISHED_PIECE)]
        if tokenizer.clean_up_tokenization_spaces:
            self._stages.append(_Rule(clean_up_spaces, UNDECIDED_SPACE))
        if process:
            self._stages += [_Strip(), _Rule(to_fullwidth, UNDECIDED_WIDTH, looks_back=True)]

    def push(self, index: int) -> str:
        """The text that became certain with this id; often empty."""
        if not self.tokenizer.is_nothing(int(index)):
            self._held.append(int(index))
        return self._yield(final=False)

    def finish(self) -> str:
        """What was still held back."""
        return self._yield(final=True)

    def _yield(self, final: bool) -> str:
        ready = len(self._held) if final else len(self._held) - self._unfinished_bytes()
        text = self._decoded(self._held[:ready])
        del self._held[:ready]
        for stage in self._stages:
            text = stage.feed(text, final)
        self.text += text
        return text

    def _decoded(self, ids: list[int]) -> str:
        """The raw text that `ids` add to what came before: a first `▁` is no space, every later one is."""
        known = len(self.tokenizer.raw_text(self._before))
        text = self.tokenizer.raw_text(self._before + ids)[known:]
        ordinary = any(not self.tokenizer.is_control(index) for index in ids)
        self._before = ids if ordinary else self._before + ids
        return text

    def _unfinished_bytes(self) -> int:
        """How many ids at the end begin a character whose other bytes may still follow."""
        tail = bytearray()
        for index in reversed(self._held):
            byte = self.tokenizer.byte_of(index)
            if byte is None:
                break
            tail.insert(0, byte)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        decoder.decode(bytes(tail))
        return len(decoder.getstate()[0])


class _Rule:
    """A rule over a growing text, applied up to where later text could still change what it does.

    `looks_back`: the rule reads the character before, as it was shown.
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


class _Strip:
    """`str.strip` over a growing text: space at the end waits for what follows."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    def feed(self, text: str, final: bool) -> str:
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        kept = text.rstrip()
        self._begun = self._begun or bool(kept)
        self._held = "" if final else text[len(kept) :]
        return kept
