"""A row of a batch whose ids are decoded as they come, so that a stop string ends it."""

from __future__ import annotations

from torch import Tensor

from ..preprocessing.tokenizer import ChatGLMTokenizer
from .batch_generation import GenerationRow
from .generation_settings import GenerationSettings, start_decoder
from .stop_strings import StopFilter


class TextRow(GenerationRow):
    """A `GenerationRow` that decodes its ids as they come; `text` ends before the first stop string of its settings."""

    def __init__(
        self,
        tokenizer: ChatGLMTokenizer,
        input_ids: list[int],
        image_embeds: Tensor | None,
        settings: GenerationSettings,
    ) -> None:
        self._tokenizer = tokenizer
        super().__init__(input_ids, image_embeds, settings)

    def restart(self) -> None:
        """Forget what was generated."""
        super().restart()
        self.text = ""
        self._decoder = start_decoder(self._tokenizer, self.settings)
        self._stops = StopFilter(self.settings.stops)

    @property
    def stopped(self) -> bool:
        """Whether the answer is complete: it ended with `<eop>` or before a stop string."""
        return self._stops.stopped or (bool(self.ids) and self.ids[-1] in self.eos)

    def accept(self, index: int) -> None:
        """Append the next id and decode it."""
        super().accept(index)
        piece = "" if index in self.eos else self._decoder.push(index)
        self.text += self._stops.feed(piece + (self._decoder.finish() if self.ended else ""), final=self.ended)
        self.ended = self.ended or self._stops.stopped
