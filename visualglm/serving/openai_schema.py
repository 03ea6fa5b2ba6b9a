"""Request and response models of OpenAI's chat API, as far as this model supports it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from ..errors import UsageError
from .choice_fields import ChoiceFields

MAX_MESSAGES = 2048
MAX_PARTS = 256
"""Maximum texts and images in one message."""
SEED = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
REFUSED = (
    *("tools", "tool_choice", "functions", "function_call", "logit_bias", "audio"),
    *("presence_penalty", "frequency_penalty"),  # 0 is the default of clients
)


class TextPart(BaseModel):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ImageURL(BaseModel):
    """An image: a data URL, or http(s) if the server allows its host."""

    url: str
    detail: str | None = None


class ImagePart(BaseModel):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageURL


def _kind_of(part: Any) -> str | None:
    """Return the kind that a part names, shortened for an error message."""
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return kind[:100] if isinstance(kind, str) else None


class ChatMessage(BaseModel):
    """One message; images belong to the user's."""

    role: Literal["user", "assistant", "system", "developer"]
    content: (
        str
        | Annotated[
            list[
                Annotated[
                    Annotated[TextPart, Tag("text")] | Annotated[ImagePart, Tag("image_url")], Discriminator(_kind_of)
                ]
            ],
            Field(max_length=MAX_PARTS, fail_fast=True),
        ]
    )


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool = False


class ChatRequest(ChoiceFields):
    """`POST /v1/chat/completions`; missing fields come from the checkpoint's own generation config."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: (
        Annotated[str, StringConstraints(min_length=1, max_length=200)]
        | Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=200)]], Field(max_length=4)]
        | None
    ) = None
    seed: SEED | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    language: Literal["auto", "zh", "en"] = "auto"

    def sampling(self) -> dict[str, Any]:
        """Return the sampling arguments in transformers' names.

        Raises:
            UsageError: a requested feature is not supported by this model.
        """
        extra = self.model_extra or {}
        asked = [name for name in REFUSED if extra.get(name)]
        if asked:
            raise UsageError(f"{asked[0]} is not supported by VisualGLM. Remove it.")
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": self.stop,
            "repetition_penalty": self.repetition_penalty,
            "max_new_tokens": limit,
            **self.choices(),
        }


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
    """A token at a position of the answer; `bytes` is null for a token that is no text, such as the end."""

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
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
