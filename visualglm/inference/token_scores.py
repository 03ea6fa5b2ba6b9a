"""Log probabilities of the tokens of an answer, as the model computes them.

They are those of the logits, before penalties, temperature, top-k, top-p or a grammar change them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TokenScore:
    """A token's id with its log probability, and the likeliest ids at its position, the likeliest first."""

    index: int
    log_probability: float
    likeliest: tuple[tuple[int, float], ...]


class ScoreRecorder:
    """Records the tokens of one answer with the `top` likeliest ids at each position."""

    def __init__(self, top: int) -> None:
        self.top = top
        self.scores: list[TokenScore] = []
        self._next: Tensor | None = None

    def observe(self, logits: Tensor) -> None:
        """Take the logits [vocabulary] of the next token."""
        self._next = logits.float().log_softmax(-1)

    def accept(self, index: int) -> None:
        """Record the token that was chosen."""
        if self._next is not None:
            values, ids = self._next.topk(min(self.top, len(self._next)))
            likeliest = tuple(zip(ids.tolist(), values.tolist(), strict=True))
            self.scores.append(TokenScore(index, float(self._next[index]), likeliest))
            self._next = None
