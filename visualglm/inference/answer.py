"""The answer to one question."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from .streaming_reply import FinishReason


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer: its text, why it ended, its cost, and how many old turns were left out.

    `finish_reason` is `stop`, `length`, `cancelled`, or `error`: then `error` says why there is no text. Answers are
    equal if they differ in nothing but `seconds`.
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
        """Return it for JSON; `error` only where there is one."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "error" or value}
