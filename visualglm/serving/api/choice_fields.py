"""Request fields about the choices of a chat completion: how many, of what form, with which log probabilities."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...inference.json_grammar import ANY_OBJECT
from ..request_fields import RefusedFieldError

MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20


class NamedSchema(BaseModel):
    """A JSON schema with its name. The answer always matches it, whatever `strict` says."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(max_length=256)] | None = None
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What the answer is: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class ChoiceFields(BaseModel):
    """Fields of `POST /v1/chat/completions`; null asks for nothing."""

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None

    def choices(self) -> dict[str, Any]:
        """Return `json_schema` and `top_logprobs` of `Engine.ask`.

        Raises:
            RefusedFieldError: `top_logprobs` without `logprobs`, or a format of a schema without one.
        """
        if self.top_logprobs is not None and not self.logprobs:
            message = "top_logprobs needs logprobs. Send logprobs: true, or remove top_logprobs."
            raise RefusedFieldError("top_logprobs", message)
        return {"json_schema": self._schema(), "top_logprobs": self.top_logprobs or 0 if self.logprobs else None}

    def _schema(self) -> dict[str, Any] | None:
        given = self.response_format
        if given is None or given.type == "text":
            return None
        if given.type == "json_object":
            return ANY_OBJECT
        schema = given.json_schema.json_schema if given.json_schema is not None else None
        if schema is None:
            message = "response_format has no schema. Send json_schema: {name, schema}, or type json_object."
            raise RefusedFieldError("response_format", message)
        return schema
