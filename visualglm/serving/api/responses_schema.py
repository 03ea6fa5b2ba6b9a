"""Request and response models of OpenAI's Responses API, as far as this model supports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, Tag

from ...inference.json_grammar import ANY_OBJECT
from ..request_fields import (
    COUNT,
    MAX_MESSAGES,
    MAX_PARTS,
    RefusedFieldError,
    SamplingFields,
    by_type,
    refuse_fields,
    token_limit,
)
from .openai_schema import ChatMessage, TextPart

STATEFUL = ("previous_response_id", "conversation", "background", "prompt")
REFUSED = ("tools", "tool_choice", "top_logprobs")


class ToolOutput(BaseModel):
    """The result of a tool, which becomes part of the next question."""

    type: Literal["function_call_output"]
    output: str | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class ItemReference(BaseModel):
    """An answer of this server, by the id of its message; the AI SDK refers to answers instead of repeating them."""

    type: Literal["item_reference"]
    id: Annotated[str, StringConstraints(max_length=200)]


class IgnoredItem(BaseModel):
    """Items that clients send back and that this model never has."""

    type: Literal["function_call", "reasoning"]


def _kind_of(item: Any) -> str | None:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return "ignored" if kind in ("function_call", "reasoning") else str(kind or "message")[:100]


ITEM = Annotated[
    Annotated[ChatMessage, Tag("message")]
    | Annotated[ToolOutput, Tag("function_call_output")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[IgnoredItem, Tag("ignored")],
    by_type(_kind_of, "message", "function_call_output", "item_reference"),
]


class TextFormat(BaseModel):
    """What the answer is: text, any JSON object, or JSON of a schema. It always matches it, whatever `strict` says."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, StringConstraints(max_length=256)] | None = None
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def constraint(self) -> dict[str, Any] | None:
        """Return the JSON schema of the answer; None for text.

        Raises:
            RefusedFieldError: the format is of a schema, and has none.
        """
        if self.type == "json_schema" and self.json_schema is None:
            raise RefusedFieldError("text.format", "text.format has no schema. Send one, or type json_object.")
        return {"text": None, "json_object": ANY_OBJECT, "json_schema": self.json_schema}[self.type]


class TextSettings(BaseModel):
    """Settings of the answer's text."""

    format: TextFormat | None = None


class ResponsesRequest(SamplingFields):
    """`POST /v1/responses`. Each request brings its whole dialogue; unless `store` is false, the answer's text is
    remembered for a while, for an `item_reference` in a later one."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    input: str | Annotated[list[ITEM], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: COUNT | None = None
    stream: bool | None = None
    store: bool | None = None
    text: TextSettings | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    def sampling(self) -> dict[str, Any]:
        """Return the sampling arguments beside `draws`, in transformers' names.

        Raises:
            RefusedFieldError: a requested feature is not supported.
        """
        extra = self.model_extra or {}
        for name in STATEFUL:
            if extra.get(name):
                raise RefusedFieldError(name, f"{name} is not supported. Send the whole dialogue as input.")
        refuse_fields(extra, REFUSED)
        limit = token_limit(self.max_output_tokens)
        return {"max_new_tokens": limit, "json_schema": self.text_format.constraint()}

    @property
    def text_format(self) -> TextFormat:
        """The format of the answer."""
        return (self.text and self.text.format) or TextFormat(type="text")

    def take_messages(self, recall: Callable[[str], str | None]) -> list[dict[str, Any]]:
        """Return the dialogue as chat messages, and keep none: they hold the encoded images.

        `recall` returns the text of an answer by the id of its message.

        Raises:
            RefusedFieldError: an answer that is referred to is not remembered.
        """
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        for item in [ChatMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input:
            if isinstance(item, ChatMessage):
                messages.append(item.model_dump())
            elif isinstance(item, ToolOutput):
                messages.append({"role": "tool", "content": item.model_dump()["output"]})
            elif isinstance(item, ItemReference):
                answer = recall(item.id)
                if answer is None:
                    raise RefusedFieldError("input", f"The answer {item.id} is not remembered. Send its message.")
                messages.append({"role": "assistant", "content": answer})
        self.input = ""
        return messages


class OutputText(BaseModel):
    """The answer's text."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class OutputMessage(BaseModel):
    """The answer."""

    type: Literal["message"] = "message"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class InputDetails(BaseModel):
    """Cached tokens: none."""

    cached_tokens: Literal[0] = 0


class OutputDetails(BaseModel):
    """Tokens of reasoning: none."""

    reasoning_tokens: Literal[0] = 0


class ResponseUsage(BaseModel):
    """Tokens of prompt and answer; image placeholder tokens count."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why an answer ended early."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseError(BaseModel):
    """Why there is no answer."""

    code: str
    message: str


class ResponseObject(BaseModel):
    """A response."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[OutputMessage] = []
    usage: ResponseUsage | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    temperature: float | None
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    text: TextSettings
    background: Literal[False] = False
    parallel_tool_calls: Literal[False] = False
    previous_response_id: None = None
    store: bool
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = []
