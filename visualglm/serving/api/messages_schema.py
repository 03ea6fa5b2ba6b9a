"""Request and response models of Anthropic's Messages API, as far as this model supports it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag

from ..request_fields import (
    COUNT,
    MAX_MESSAGES,
    MAX_PARTS,
    STOPS,
    SamplingFields,
    by_type,
    refuse_fields,
    stop_strings,
    token_limit,
)

REFUSED = ("tools", "tool_choice", "mcp_servers", "container")


class TextBlock(BaseModel):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ImageSource(BaseModel):
    """An image in base64, or a URL where the server allows its host."""

    type: Literal["base64", "url"]
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class ImageBlock(BaseModel):
    """An image of a message."""

    type: Literal["image"]
    source: ImageSource


class ToolResultBlock(BaseModel):
    """The result of a tool, which becomes part of the question."""

    type: Literal["tool_result"]
    content: str | Annotated[list[TextBlock], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None


class IgnoredBlock(BaseModel):
    """Blocks that clients send back and that this model never has."""

    type: Literal["tool_use", "thinking", "redacted_thinking"]


def _kind_of(block: Any) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return "ignored" if kind in ("tool_use", "thinking", "redacted_thinking") else str(kind)[:100]


BLOCK = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[IgnoredBlock, Tag("ignored")],
    by_type(_kind_of, "text", "image", "tool_result"),
]


class InputMessage(BaseModel):
    """One message; images belong to the user's."""

    role: Literal["user", "assistant"]
    content: str | Annotated[list[BLOCK], Field(max_length=MAX_PARTS, fail_fast=True)]

    def parts(self) -> list[dict[str, Any]]:
        """Return the content as parts of a chat message."""
        if isinstance(self.content, str):
            return [{"type": "text", "text": self.content}]
        return [part for block in self.content for part in _parts_of(block)]


def _parts_of(block: TextBlock | ImageBlock | ToolResultBlock | IgnoredBlock) -> list[dict[str, Any]]:
    if isinstance(block, TextBlock):
        return [block.model_dump()]
    if isinstance(block, ToolResultBlock):
        texts = [block.content] if isinstance(block.content, str) else [part.text for part in block.content or []]
        return [{"type": "text", "text": text} for text in texts]
    if isinstance(block, ImageBlock):
        source = block.source
        given = f"data:{source.media_type};base64,{source.data}" if source.type == "base64" else source.url
        return [{"type": "image_url", "image_url": given}]
    return []


class MessagesRequest(SamplingFields):
    """`POST /v1/messages`."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    max_tokens: COUNT | None = None
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: str | Annotated[list[TextBlock], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    stop_sequences: STOPS | None = None
    stream: bool | None = None

    def sampling(self) -> dict[str, Any]:
        """Return the sampling arguments beside `draws`, in transformers' names.

        Raises:
            RefusedFieldError: a requested feature is not supported by this model.
        """
        refuse_fields(self.model_extra or {}, REFUSED)
        return {"stop": stop_strings(self.stop_sequences), "max_new_tokens": token_limit(self.max_tokens)}

    def take_messages(self) -> list[dict[str, Any]]:
        """Return the dialogue as chat messages, and keep none: they hold the encoded images."""
        messages: list[dict[str, Any]] = []
        if self.system:
            blocks = [self.system] if isinstance(self.system, str) else [block.text for block in self.system]
            messages.append({"role": "system", "content": "\n".join(blocks)})
        for message in self.messages:
            parts = message.parts()
            if parts or not message.content:  # an assistant may have done nothing but call a tool
                messages.append({"role": message.role, "content": parts})
        self.messages = []
        return messages


class AnswerBlock(BaseModel):
    """The answer's text."""

    type: Literal["text"] = "text"
    text: str


class MessageUsage(BaseModel):
    """Tokens of prompt and answer; image placeholder tokens count."""

    input_tokens: int
    output_tokens: int


class MessageReply(BaseModel):
    """An answer; one that a stop sequence ended has the reason `end_turn`."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock] = []
    stop_reason: Literal["end_turn", "max_tokens"] | None = None
    stop_sequence: None = None
    usage: MessageUsage
