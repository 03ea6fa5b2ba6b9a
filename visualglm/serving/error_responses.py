"""Convert every error of the server into one shape: `{"type": "error", "error": {message, type, param, code}}`.

That is OpenAI's shape, and Anthropic's too. One exception: a request with an unaccepted Host header gets starlette's
400 in plain text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import AnswerError, ContextLengthError, ImageError, JsonSchemaError, PromptError, VisualGLMError
from .engine.engine import QueueFullError
from .engine.job import QueueTimeoutError
from .middleware.request_id import current_request_id
from .model_ids import UnknownModelError
from .request_fields import RefusedFieldError

logger = logging.getLogger("visualglm.serving")

FAILED = "The server failed to answer this request. See its log for the reason."
MAX_MESSAGE = 500
"""Maximum characters of an error message sent to a client."""
MAX_PARAM = 100
RETRY_AFTER = "5"
"""Seconds of the Retry-After header."""

STATUS_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "foreign_origin",
    404: "unknown_url",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    500: "server_error",
    503: "busy",
}
"""Codes of errors that have none of their own."""
TYPES = {401: "authentication_error", 404: "not_found_error", 500: "server_error", 503: "server_error"}
PARAMS = {"/": "text", "/v1/responses": "input", "/v1/explain": "question"}
"""The field of a path's body that holds the dialogue; elsewhere it is `messages`."""
IMAGE_PARAMS = {"/": "image", "/v1/explain": "image"}
"""The field of a path's body that holds the image, where it is not in the dialogue."""
CONTEXT_LENGTH = "This model's maximum context length is exceeded: the prompt is too long. "
"""Text that clients recognise instead of the code: litellm its beginning, LangChain its end."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class FailureReply:
    """Answer unexpected errors inside the middleware that adds headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note_start(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, note_start)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            await explain(error)(scope, receive, send)


class ErrorBody(BaseModel):
    """One error with its message."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """Error response in OpenAI's and Anthropic's shape."""

    type: Literal["error"] = "error"
    error: ErrorBody


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": about}
    for status, about in {
        400: "The request cannot be answered; the message says why.",
        401: "The key is missing or wrong.",
        404: "There is no such model.",
        405: "Another method is needed; Allow names it.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        415: "The body is not JSON, or compressed.",
        500: "An error in the server.",
        503: "The queue is full, or the time was up.",
    }.items()
}


def error_reply(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    """Build an error response."""
    message = printable(message, MAX_MESSAGE)
    param = param and printable(param, MAX_PARAM)
    kind, code = TYPES.get(status, "invalid_request_error"), code or STATUS_CODES.get(status, "invalid_request")
    body = ErrorReply(error=ErrorBody(message=message, type=kind, param=param, code=code))
    headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
    return JSONResponse(body.model_dump(), status, headers)


def printable(text: str, length: int) -> str:
    """Return at most `length` characters of a text, each control character and half of a surrogate pair escaped.

    A terminal obeys the escape sequences in what it shows, and clients choose names and paths.
    """
    text = text[:length]
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:length]


def explain(error: BaseException, path: str = "") -> JSONResponse:
    """Return the response to an error of ours; any other is a 500 that reveals no details.

    `path` is that of the API, and selects the field that the error names.
    """
    param = PARAMS.get(path, "messages")
    if isinstance(error, AnswerError):
        return error_reply(500, str(error), code="answer_failed")
    if isinstance(error, ContextLengthError):
        return error_reply(400, f"{CONTEXT_LENGTH}{error}", param, "context_length_exceeded")
    if isinstance(error, ImageError):
        return error_reply(400, str(error), IMAGE_PARAMS.get(path, param), "invalid_image")
    if isinstance(error, PromptError):
        return error_reply(400, str(error), param, "invalid_prompt")
    if isinstance(error, JsonSchemaError):
        field = "text.format" if path == "/v1/responses" else "response_format"
        return error_reply(400, str(error), field, "invalid_json_schema")
    if isinstance(error, UnknownModelError):
        return error_reply(404, str(error), "model", "model_not_found")
    if isinstance(error, RefusedFieldError):
        return error_reply(400, str(error), error.field, "unsupported_parameter")
    if isinstance(error, VisualGLMError):
        return error_reply(400, str(error))
    if isinstance(error, QueueFullError | QueueTimeoutError):
        return error_reply(503, f"Busy: {error}")
    logger.error("%s: a request failed", current_request_id.get(), exc_info=error)
    return error_reply(500, FAILED)


def error_fields(error: BaseException, path: str = "") -> dict[str, Any]:
    """Return the JSON of `explain`, for an event of a stream that has begun."""
    fields: dict[str, Any] = json.loads(bytes(explain(error, path).body))
    return fields


def client_closed_response() -> Response:
    """Return a response for a client that left, with nginx's status 499."""
    return Response(status_code=499)


def _mistake(errors: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Convert pydantic's errors into what is wrong, and where in the body.

    A union has an error per kind: the deepest is of the kind that was meant, and one that is not about the type says
    most. Besides the body's own names, pydantic's places hold names of kinds: not identifiers, our classes, or tags
    equal to the name of what they hold.
    """
    best = max(errors, key=lambda error: (len(error["loc"]), not error.get("type", "").endswith("_type")))
    kinds = ("str", "int", "bool")
    names = [
        part
        for part in best["loc"]
        if isinstance(part, int) or (part.isidentifier() and part[:1].islower() and part not in kinds)
    ]
    kept = [part for before, part in pairwise([None, *names]) if isinstance(part, int) or part != before]
    return best["msg"], ".".join(map(str, kept))


def add_exception_handlers(app: FastAPI) -> None:
    """Add handlers that answer every kind of error in the same shape."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        message, place = _mistake(error.errors())
        return error_reply(400, f"{place or 'The body'}: {message}.", place or None, "invalid_value" if place else None)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code in (404, 405):
            return _no_such_operation(app, request)
        reply = error_reply(error.status_code, error.detail)
        reply.headers.update(error.headers or {})
        return reply

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return client_closed_response()

    async def ours(request: Request, error: Exception) -> JSONResponse:
        return explain(error, request.url.path)

    for kind in (VisualGLMError, QueueFullError, QueueTimeoutError):
        app.add_exception_handler(kind, ours)


def _no_such_operation(app: FastAPI, request: Request) -> JSONResponse:
    """Answer 405 with the right `Allow` where the path has other methods, else 404 with what there is."""
    asked = f"{request.method} {request.url.path[:100]} is not answered."
    allowed = [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in app.routes)
    ]
    if not allowed:
        known = [f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item]
        return error_reply(404, f"{asked} This server answers {', '.join(sorted(known))}.")
    allowed += ["HEAD"] if "GET" in allowed else []
    reply = error_reply(405, f"{asked} Use {' or '.join(allowed)}.")
    reply.headers["Allow"] = ", ".join(allowed)
    return reply
