"""Request and response models of OpenAI's chat API, as far as this model supports it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag

from ..request_fields import (
    COUNT,
    MAX_MESSAGES,
    MAX_PARTS,
    STOP,
    STOPS,
    SamplingFields,
    by_type,
    refuse_fields,
    stop_strings,
    token_limit,
)
from .choice_fields import ChoiceFields

REFUSED = (
    *("tools", "tool_choice", "functions", "function_call", "logit_bias", "audio"),
    *("presence_penalty", "frequency_penalty"),  # 0 is the default of clients
)


class TextPart(BaseModel):
    """Text of a message; clients of the Responses API write `input_text` and `output_text`."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(BaseModel):
    """A refusal of the assistant, instead of a text."""

    type: Literal["refusal"]
    refusal: str


class ImageURL(BaseModel):
    """An image: a data URL, or http(s) if the server allows its host."""

    url: str
    detail: str | None = None


class ImagePart(BaseModel):
    """An image of a message."""

    type: Literal["image_url", "input_image"]
    image_url: str | ImageURL


def _kind_of(part: Any) -> str | None:
    """Return the kind that a part names, shortened for an error message."""
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return PART_TAGS.get(kind, kind[:100]) if isinstance(kind, str) else None


PART_TAGS = {"input_text": "text", "output_text": "text", "input_image": "image_url"}


class ChatMessage(BaseModel):
    """One message. Only a user's may have images; an assistant's that calls tools needs no content."""

    role: Literal["user", "assistant", "system", "developer", "tool", "function"]
    content: (
        str
        | Annotated[
            list[
                Annotated[
                    Annotated[TextPart, Tag("text")]
                    | Annotated[ImagePart, Tag("image_url")]
                    | Annotated[RefusalPart, Tag("refusal")],
                    by_type(_kind_of, "text", "image_url", "refusal"),
                ]
            ],
            Field(max_length=MAX_PARTS, fail_fast=True),
        ]
        | None
    ) = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool | None = None


class ChatRequest(SamplingFields, ChoiceFields):
    """`POST /v1/chat/completions`; missing fields come from the checkpoint's own generation config."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: STOP | STOPS | None = None
    max_tokens: COUNT | None = None
    max_completion_tokens: COUNT | None = None

    def sampling(self) -> dict[str, Any]:
        """Return the sampling arguments beside `draws`, in transformers' names.

        Raises:
            RefusedFieldError: a requested feature is not supported by this model.
        """
        extra = self.model_extra or {}
        refuse_fields(extra, REFUSED)
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return {"stop": stop_strings(self.stop), "max_new_tokens": token_limit(limit), **self.choices()}

    def take_messages(self) -> list[dict[str, Any]]:
        """Return the messages, and keep none: they hold the encoded images."""
        taken, self.messages = [message.model_dump() for message in self.messages], []
        return taken


class Usage(BaseModel):
    """Tokens of prompt and answer; image placeholder tokens count."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class TopLogprob(BaseModel):
    """A token at a position of the answer; `bytes` is null for a token that is not text, such as the end."""

    token: str
    bytes: list[int] | None
    logprob: float


class TokenLogprob(TopLogprob):
    """A token of the answer, and the likeliest ones at its position."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """The tokens of an answer without its end."""

    content: list[TokenLogprob]
    refusal: None = None


class Choice(BaseModel):
    """One of the `n` answers."""

    index: int
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChoiceLogprobs | None = None


class ChatCompletion(BaseModel):
    """A complete answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class SamplingDefaults(BaseModel):
    """The sampling of a request that sets none; temperature 0 is greedy."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


class ModelCard(BaseModel):
    """A model that is served, or an adapter of it.

    `description`: one English sentence; `miniature`: it is the packed model; `default`: a request that names no model
    gets this one; `sampling`: what a request that sets nothing gets.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "visualglm"
    description: str
    miniature: bool
    default: bool
    sampling: SamplingDefaults


class ModelList(BaseModel):
    """All models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
