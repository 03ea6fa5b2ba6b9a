"""Find the token ids that could write Chinese characters.

In: a tokenizer. Out: slices of ids: the pieces with a Chinese character, and the bytes that begin one. Upstream's
English command line forbids ids 63823 to 129999 (`cli_demo.py`), the Chinese range of the 6B's vocabulary. This search
works for any vocabulary. Forbidding the bytes also forbids emoji that a vocabulary spells in bytes.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

from .prompt import CHINESE, Language
from .tokenizer import ChatGLMTokenizer

FIRST_BYTES = {0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEF, 0xF0}
"""The first UTF-8 bytes of U+3400-9FFF, U+F900-FAFF and U+20000-323AF, `prompt.CHINESE`."""


def forbid_chinese_tokens(tokenizer: ChatGLMTokenizer, language: Language, sampling: dict[str, Any]) -> dict[str, Any]:
    """Return `sampling`, with Chinese tokens forbidden if `language` is `en`; `auto` forbids nothing."""
    if language != "en":
        return sampling
    return {**sampling, "invalid_slices": [*(sampling.get("invalid_slices") or []), *chinese_slices(tokenizer)]}


@lru_cache(maxsize=4)
def chinese_slices(tokenizer: ChatGLMTokenizer) -> tuple[slice, ...]:
    """Return the ids of pieces with a Chinese character and of bytes that begin one, as slices."""
    ids = [index for index in range(tokenizer.vocab_size) if _is_chinese(tokenizer, index)]
    return tuple(_merge_ids(ids))


def _is_chinese(tokenizer: ChatGLMTokenizer, index: int) -> bool:
    byte = tokenizer.byte_of(index)
    if byte is not None:
        return byte in FIRST_BYTES
    return CHINESE.search(str(tokenizer.sp_model.id_to_piece(index))) is not None


def _merge_ids(ids: list[int]) -> list[slice]:
    """Merge ascending ids into slices of consecutive ones."""
    gaps = [(before, after) for before, after in pairwise(ids) if after != before + 1]
    starts = ids[:1] + [after for _, after in gaps]
    ends = [before + 1 for before, _ in gaps] + [last + 1 for last in ids[-1:]]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]
