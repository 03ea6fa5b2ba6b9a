"""Convert every error of the server into OpenAI's shape: `{"error": {message, type, param, code}}`.

One exception: a request with an unaccepted Host header gets starlette's 400 in plain text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..errors import AnswerError, ImageError, PromptError, VisualGLMError
from .engine import QueueFullError
from .job import QueueTimeoutError

logger = logging.getLogger("visualglm.serving")

FAILED = "The server failed to answer this request. See its log for the reason."
MAX_MESSAGE = 500
"""Maximum characters of an error message sent to a client."""
MAX_PARAM = 100
RETRY_AFTER = "5"
"""Seconds of the Retry-After header."""

CODES: dict[type[BaseException], str] = {ImageError: "invalid_image", PromptError: "invalid_prompt"}
TYPES = {401: "authentication_error", 404: "not_found_error", 500: "server_error", 503: "server_error"}


class ErrorBody(BaseModel):
    """One error with its message."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """Error response in OpenAI's shape."""

    error: ErrorBody


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": about}
    for status, about in {
        400: "The request cannot be answered; the message says why.",
        401: "The key is missing or wrong.",
        404: "There is no such model.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        415: "The body is not JSON.",
        500: "An error in the server.",
        503: "The queue is full, or the time was up.",
    }.items()
}


def error_reply(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    """Build an error response."""
    message = printable(message, MAX_MESSAGE)
    param = param and printable(param, MAX_PARAM)
    kind = TYPES.get(status, "invalid_request_error")
    body = ErrorReply(error=ErrorBody(message=message, type=kind, param=param, code=code))
    headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
    return JSONResponse(body.model_dump(), status, headers)


def printable(text: str, length: int) -> str:
    """Return at most `length` characters of a text, each control character and half of a surrogate pair escaped.

    A terminal obeys the escape sequences in what it shows, and clients choose names and paths.
    """
    text = text[:length]
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:length]


def explain(error: BaseException) -> JSONResponse:
    """Return the response to an error of ours; any other is a 500 that reveals no details."""
    if isinstance(error, AnswerError):
        return error_reply(500, str(error))
    if isinstance(error, VisualGLMError):
        return error_reply(400, str(error), code=CODES.get(type(error)))
    if isinstance(error, QueueFullError | QueueTimeoutError):
        return error_reply(503, f"Busy: {error}", code="busy")
    return error_reply(500, FAILED)


def client_closed_response() -> Response:
    """Return a response for a client that left, with nginx's status 499."""
    return Response(status_code=499)


def _mistake(errors: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Convert pydantic's errors into what is wrong, and where in the body.

    A union has an error per kind: the deepest is of the kind that was meant, and one that is not about the type says
    most. Besides the body's own names, pydantic's places hold names of kinds: not identifiers, or tags equal to the
    name
    of what they hold.
    """
    best = max(errors, key=lambda error: (len(error["loc"]), not error.get("type", "").endswith("_type")))
    names = [part for part in best["loc"] if isinstance(part, int) or (part.isidentifier() and part != "str")]
    kept = [part for before, part in pairwise([None, *names]) if isinstance(part, int) or part != before]
    return best["msg"], ".".join(map(str, kept))


def add_exception_handlers(app: FastAPI) -> None:
    """Add handlers that answer every kind of error in OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        message, place = _mistake(error.errors())
        return error_reply(400, f"{place or 'The body'}: {message}.", param=place or None)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        detail = f"{error.detail.rstrip('.')}."
        if error.status_code in (404, 405):
            detail = f"{error.detail}: {request.method} {request.url.path[:100]} is not supported by this server."
        reply = error_reply(error.status_code, detail)
        reply.headers.update(error.headers or {})
        return reply

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return client_closed_response()

    async def ours(request: Request, error: Exception) -> JSONResponse:
        return explain(error)

    for kind in (VisualGLMError, QueueFullError, QueueTimeoutError, Exception):
        app.add_exception_handler(kind, ours)
