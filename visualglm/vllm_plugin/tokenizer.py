"""Our tokenizer with what vLLM asks of every tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm.tokenizers.hf import get_cached_tokenizer

from ..preprocessing.tokenizer import ChatGLMTokenizer


class VLLMTokenizer:
    """Opens `ChatGLMTokenizer`, whatever the folder's `tokenizer_class` says; no code of the folder runs."""

    @staticmethod
    def from_pretrained(folder: str | Path, *args: Any, **kwargs: Any) -> ChatGLMTokenizer:
        """A folder or hub id -> the tokenizer; vLLM's copy knows its highest id and the like at once."""
        hub = {"revision": kwargs.get("revision"), "cache_dir": kwargs.get("download_dir")}
        opened = ChatGLMTokenizer.from_pretrained(folder, **{key: value for key, value in hub.items() if value})
        return get_cached_tokenizer(opened)  # type: ignore[no-any-return]
