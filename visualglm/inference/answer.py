"""The answer to one question."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from .streaming_reply import FinishReason


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer: its text, why it ended, its cost, and how many old turns were dropped.

    `finish_reason` is `stop`, `length`, `cancelled`, or `error`; then `error` says why there is no text. Answers that
    differ only in `seconds` are equal.
    """

    text: str
    finish_reason: FinishReason | Literal["error"]
    prompt_tokens: int
    completion_tokens: int
    seconds: float = dataclasses.field(compare=False)
    dropped_turns: int = 0
    error: str | None = None

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; `error` only if there is one."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "error" or value}
