"""The ids that an English answer never takes, so that no Chinese character is in it.

In: a tokenizer. Out: slices of ids: the pieces with a Chinese character, and the bytes that begin one. Upstream's
English command line forbids 63823 to 129999 (`cli_demo.py`), the Chinese range of the 6B's vocabulary; this finds the
ids in any vocabulary, and the bytes, too (so there is no emoji either where they are spelled in bytes). Knows nothing
about models.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Any

from .prompt import CHINESE, Language
from .tokenizer import ChatGLMTokenizer

FIRST_BYTES = {0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEF, 0xF0}
"""The first UTF-8 bytes of U+3400-9FFF, U+F900-FAFF and U+20000-323AF, `prompt.CHINESE`."""


def forbid_chinese_tokens(tokenizer: ChatGLMTokenizer, language: Language, sampling: dict[str, Any]) -> dict[str, Any]:
    """Sampling arguments that forbid Chinese as well where `language` is `en` (not `auto`); else as they were."""
    if language != "en":
        return sampling
    return {**sampling, "invalid_slices": [*(sampling.get("invalid_slices") or []), *chinese_slices(tokenizer)]}


@lru_cache(maxsize=4)
def chinese_slices(tokenizer: ChatGLMTokenizer) -> tuple[slice, ...]:
    """The ids of pieces with a Chinese character, and of bytes that begin one, as few slices."""
    ids = [index for index in range(tokenizer.vocab_size) if _spells_chinese(tokenizer, index)]
    return tuple(_runs(ids))


def _spells_chinese(tokenizer: ChatGLMTokenizer, index: int) -> bool:
    byte = tokenizer.byte_of(index)
    if byte is not None:
        return byte in FIRST_BYTES
    return CHINESE.search(str(tokenizer.sp_model.id_to_piece(index))) is not None


def _runs(ids: Iterable[int]) -> list[slice]:
    """Rising ids -> slices of neighbours."""
    rising = list(ids)
    starts = rising[:1] + [index for before, index in pairwise(rising) if index != before + 1]
    ends = [before + 1 for before, index in pairwise(rising) if index != before + 1] + [i + 1 for i in rising[-1:]]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]
