"""Define the request fields that several APIs share.

`null` means the server's default everywhere, -1 no limit, and an empty stop string is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, StringConstraints

from ..errors import UsageError

MAX_MESSAGES = 2048
MAX_PARTS = 256
"""Maximum texts and images in one message."""
NO_LIMIT = 1_000_000
"""Tokens: far more than fit into the model."""
SEED = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
TEMPERATURE = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TOP_P = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
LANGUAGE = Literal["auto", "zh", "en"]


def by_type(kind_of: Callable[[Any], str | None], *kinds: str) -> Discriminator:
    """Build the discriminator of a union; its error message lists the `kinds`."""
    known = ", ".join(map(repr, kinds))
    message = f"The type is not one of {known}"
    return Discriminator(kind_of, custom_error_type="unknown_kind", custom_error_message=message)


class RefusedFieldError(UsageError):
    """A field that requests what the model does not support."""

    def __init__(self, field: str, message: str | None = None) -> None:
        super().__init__(message or f"{field} is not supported by VisualGLM. Remove it.")
        self.field = field


COUNT = Annotated[int, Field(ge=1, le=NO_LIMIT)] | Literal[-1]
"""A number of tokens; -1 means no limit."""
STOP = Annotated[str, StringConstraints(max_length=200)]
STOPS = Annotated[list[STOP], Field(max_length=4)]
TOOLS = {"tools": "tool_choice", "functions": "function_call"}
"""Fields that offer tools, and those that choose one."""


class SamplingFields(BaseModel):
    """Sampling settings. Missing ones, and null, come from the flags of `serve`, else from the checkpoint's own
    generation config."""

    temperature: TEMPERATURE | None = None
    top_p: TOP_P | None = None
    top_k: Annotated[int, Field(ge=-1, le=NO_LIMIT)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None
    seed: SEED | None = None
    language: LANGUAGE | None = None

    def draws(self) -> dict[str, Any]:
        """Return the sampling arguments under transformers' names."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0 if self.top_k == -1 else self.top_k,
            "repetition_penalty": self.repetition_penalty,
        }


def token_limit(count: int | None) -> int | None:
    """Return the maximum number of tokens of an answer; None is the server's default."""
    return NO_LIMIT if count == -1 else count


def stop_strings(given: str | list[str] | None) -> list[str] | None:
    """Return the strings that end an answer, without empty ones."""
    return [stop for stop in ([given] if isinstance(given, str) else given or []) if stop] or None


def refuse_fields(given: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Refuse fields that request what the model does not support. Empty values, null, false and 0 request nothing.

    Tools are ignored if the choice is `none`, and so is a choice that demands no tool.

    Raises:
        RefusedFieldError: one of `names` requests something.
    """
    idle = {choice for choice in TOOLS.values() if _kind_of_choice(given.get(choice)) in ("none", "auto")}
    idle |= {tools for tools, choice in TOOLS.items() if _kind_of_choice(given.get(choice)) == "none"}
    for name in names:
        if given.get(name) and name not in idle:
            raise RefusedFieldError(name)


def _kind_of_choice(choice: Any) -> Any:
    """Return what a choice says; Anthropic writes it as {"type": "none"}."""
    return choice.get("type") if isinstance(choice, dict) else choice
