"""Remember the text of the last answers by the ids of their messages, in memory and nowhere else."""

from __future__ import annotations

from collections import OrderedDict

MAX_ANSWERS = 1000
"""Answers that are kept; each is at most as long as the model's context, a few kilobytes."""


class RecentAnswers:
    """The texts of the last `size` answers. Their ids are random, so that nobody guesses those of others."""

    def __init__(self, size: int = MAX_ANSWERS) -> None:
        self.size = size
        self._texts: OrderedDict[str, str] = OrderedDict()

    def remember(self, name: str, text: str) -> None:
        """Keep an answer, and forget the oldest one where there are too many."""
        self._texts[name] = text
        while len(self._texts) > self.size:
            self._texts.popitem(last=False)

    def recall(self, name: str) -> str | None:
        """Return an answer; None where it was forgotten."""
        return self._texts.get(name)
