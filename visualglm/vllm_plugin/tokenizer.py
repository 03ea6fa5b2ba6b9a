"""Open our tokenizer for vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm.tokenizers.hf import get_cached_tokenizer

from ..preprocessing.tokenizer import ChatGLMTokenizer


class VLLMTokenizer:
    """Opens `ChatGLMTokenizer` regardless of the folder's `tokenizer_class`; never runs code of the folder."""

    @staticmethod
    def from_pretrained(folder: str | Path, *args: Any, **kwargs: Any) -> ChatGLMTokenizer:
        """Open the tokenizer of a folder or hub id, wrapped by vLLM so that its properties are cached."""
        hub = {"revision": kwargs.get("revision"), "cache_dir": kwargs.get("download_dir")}
        tokenizer = ChatGLMTokenizer.from_pretrained(folder, **{key: value for key, value in hub.items() if value})
        return get_cached_tokenizer(tokenizer)  # type: ignore[no-any-return]
