"""The bytes that each id of a vocabulary stands for.

Grammars and log probabilities see a text as the bytes of its tokens, exactly as the model wrote them; `decode` changes
spaces and punctuation. Ids that are not text (control, padding, unknown) have no bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import lru_cache

from .tokenizer import ChatGLMTokenizer, unfold_whitespace

SPACE = "\u2581"
"""SentencePiece's mark for a space."""


@lru_cache(maxsize=4)
def token_bytes(tokenizer: ChatGLMTokenizer) -> tuple[bytes, ...]:
    """Return the bytes of every id of the vocabulary."""
    return tuple(_bytes_of(tokenizer, index) for index in range(tokenizer.vocab_size))


def _bytes_of(tokenizer: ChatGLMTokenizer, index: int) -> bytes:
    byte = tokenizer.byte_of(index)
    if byte is not None:
        return bytes([byte])
    if tokenizer.is_ignored(index) or tokenizer.is_control(index) or tokenizer.sp_model.is_unknown(index):
        return b""
    return unfold_whitespace(str(tokenizer.sp_model.id_to_piece(index)).replace(SPACE, " ")).encode()


class ByteDecoder:
    """Decode ids one by one into exactly the text that their bytes are; a character waits for its last byte."""

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """Add an id; return the text that is now certain."""
        return self._decoder.decode(self._table[index] if 0 <= index < len(self._table) else b"")

    def finish(self) -> str:
        """Return what is left: U+FFFD for a character without its last byte."""
        return self._decoder.decode(b"", final=True)
