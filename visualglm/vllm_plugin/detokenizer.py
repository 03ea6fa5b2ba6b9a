"""Detokenize vLLM's output with our `IncrementalDecoder`.

So spaces before punctuation, full-width punctuation and bytes are as in upstream's `process_response`. Depends on
private parts of vLLM: its incremental detokenizers, and the method that chooses one.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer, IncrementalDetokenizer, check_stop_strings

from ..preprocessing.incremental_decoder import IncrementalDecoder
from ..preprocessing.tokenizer import ChatGLMTokenizer


class ChatGLMDetokenizer(BaseIncrementalDetokenizer):
    """Incremental detokenizer of one request."""

    output_text: str

    def __init__(self, tokenizer: ChatGLMTokenizer, request: Any) -> None:
        super().__init__(request)
        self._decoder: IncrementalDecoder | None = IncrementalDecoder(tokenizer, process=True)

    def decode_next(self, next_token_id: int) -> str:
        """Return the text that this id completes."""
        return self._decoder.push(next_token_id) if self._decoder else ""

    def update(self, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        """Append ids and return the stop string that they complete, if any."""
        stop: str | None = super().update(new_token_ids, stop_terminated)
        if stop is not None:
            self._decoder = None  # drop the pending text: it follows the stop string
        return stop

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        """Return the new text; when `finished`, flush the decoder and cut at a stop string that this completes."""
        if finished and self._decoder is not None:
            rest, self._decoder = self._decoder.finish(), None
            self.output_text += rest
            if self.num_output_tokens() > self.min_tokens:
                found = check_stop_strings(self.output_text, len(rest), self.stop, self.include_stop_str_in_output)
                _, end = found or (None, -1)
                self.output_text = self.output_text if end == -1 else self.output_text[:end]
        return super().get_next_output_text(finished, delta)  # type: ignore[no-any-return]


def patch_detokenizer() -> None:
    """Make vLLM use `ChatGLMDetokenizer` for our tokenizer. Idempotent."""
    original = IncrementalDetokenizer.from_new_request
    if getattr(original, "supports_visualglm", False):
        return

    def choose(tokenizer: Any, request: Any) -> Any:
        ours = isinstance(tokenizer, ChatGLMTokenizer)
        return ChatGLMDetokenizer(tokenizer, request) if ours else original(tokenizer, request)

    choose.supports_visualglm = True  # type: ignore[attr-defined]
    IncrementalDetokenizer.from_new_request = staticmethod(choose)
