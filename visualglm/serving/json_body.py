"""Read a JSON body into a pydantic model, within bounds and without holding the event loop.

A body of 32 MB is legitimate when it is a few images in base64; as text, keys or list items it costs gigabytes and
minutes. So the bytes are counted before they are parsed, a long string must be base64, lists stop at their first
error, and a large body is handled in a thread of its own. That thread works in slices: C code holds the interpreter
lock, and so the event loop, until it returns.

Errors: `RequestValidationError`, which becomes a 400 of one sentence, and 415 for what is not plain JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

Model = TypeVar("Model", bound=BaseModel)

MAX_ITEMS = 100_000
"""Maximum commas, lists and objects in one body, those in its texts included."""
MAX_OTHER_BYTES = 2_000_000
"""Maximum bytes of a body that are not letters, digits or marks of base64: an image has at most one in sixteen."""
LONG_STRING = 1_000_000
"""Bytes above which a string must be base64: twice what a text may have."""
INLINE_BYTES = 16_384
"""Bytes up to which a body is parsed inline, which takes a few milliseconds at most."""
SLICE = 1_000_000
"""Bytes handled by one call of C code."""

BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
SPACES = bytes.maketrans(b"\t\r\n", b"   ")
ESCAPES = {rb"\/": b"/", rb"\n": b" ", rb"\r": b" ", rb"\t": b" "} | {
    rf"\u00{code}".encode(): bytes.fromhex(code) for code in ("2b", "2B", "2f", "2F", "3d", "3D")
}
"""JSON's escapes that libraries write into base64, and what is read instead."""
LONGEST_ESCAPE = 6
"""Bytes of the longest escape."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_parser = ThreadPoolExecutor(1, "json")


def refuse_media_type(request: Request) -> None:
    """Refuse a body that is not plain JSON by its headers. A form of a foreign page cannot say that it is.

    A compressed body is refused too: a small one may hold gigabytes.

    Raises:
        HTTPException: status 415.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "The body is not JSON. Send it with Content-Type: application/json.")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        message = "The body is compressed. Send it without Content-Encoding."
        raise HTTPException(415, message, {"Accept-Encoding": "identity"})


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return OpenAPI's description of a body that `read_json` reads, for a route's `openapi_extra`."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inline(definitions[part["$ref"].rpartition("/")[2]])
        return {key: inline(value) for key, value in part.items() if key != "discriminator"}

    return {"requestBody": {"content": {"application/json": {"schema": inline(schema)}}, "required": True}}


async def read_json(request: Request, model: type[Model]) -> Model:
    """Read the body of a request as a `model`.

    Raises:
        HTTPException: its headers say that it is something else, or compressed.
        RequestValidationError: its structure is too large, or it is not JSON, or not this model.
    """
    refuse_media_type(request)
    body = b"".join([chunk async for chunk in request.stream()])
    if len(body) <= INLINE_BYTES:
        return parse(body, model)
    return await asyncio.get_running_loop().run_in_executor(_parser, parse, body, model)


def parse(body: bytes, model: type[Model]) -> Model:
    """Parse and validate a body. Raw line breaks inside a string, which JSON forbids, are read as breaks.

    Raises:
        RequestValidationError: its structure is too large, or it is not JSON, or not this model.
    """
    refuse_large_structure(body)
    try:
        found = from_json(_with_legal_strings(body.removeprefix(BYTE_ORDER_MARK)), allow_inf_nan=True)
    except ValueError as error:
        raise _invalid(f"this is not JSON ({_describe_fault(error, body)})") from error
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise RequestValidationError(
            error.errors(include_url=False, include_context=False, include_input=False)
        ) from error


def _describe_fault(error: ValueError, body: bytes) -> str:
    """Say why a body is not JSON, for example because it is not UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError as broken:
        return f"byte {broken.object[broken.start]:#04x} at position {broken.start} is not UTF-8"
    return str(error)[:100].replace("hex escape", "the escape of half a surrogate pair")


def refuse_large_structure(body: bytes) -> None:
    """Count what makes JSON expensive, slice by slice.

    Raises:
        RequestValidationError: there is more of it than any dialogue has.
    """
    items = other = 0
    for start in range(0, len(body), SLICE):
        rest = body[start : start + SLICE].translate(None, BASE64)
        other += len(rest)
        items += sum(map(rest.count, (b",", b"[", b"{")))
        if items > MAX_ITEMS:
            raise _invalid(f"it has more than {MAX_ITEMS:,} commas, lists and objects: send fewer")
        if other > MAX_OTHER_BYTES:
            raise _invalid(f"it has more than {MAX_OTHER_BYTES:,} bytes of text: send less beside the images")


def _invalid(message: str) -> RequestValidationError:
    return RequestValidationError([{"loc": (), "msg": message}])


def _with_legal_strings(body: bytes) -> bytes:
    """Escape raw line breaks in strings, and remove escapes and breaks from long strings."""
    parts, done = [], 0
    for start, end in _strings(body):
        content = body[start:end]
        legal = _unescaped(content) if len(content) > LONG_STRING else _escaped(content)
        if legal is not content:
            parts += [body[done:start], legal]
            done = end
    return b"".join([*parts, body[done:]]) if parts else body


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the content of each string."""
    start = body.find(b'"') + 1
    while start:
        end = body.find(b'"', start)
        while end >= 0 and _is_escaped(body, end, start):
            end = body.find(b'"', end + 1)
        if end < 0:
            return
        yield start, end
        start = body.find(b'"', end + 1) + 1


def _is_escaped(body: bytes, place: int, start: int) -> bool:
    """Return whether an odd number of backslashes precedes an offset in a string."""
    first = place
    while first > start and body[first - 1] == ord("\\"):
        first -= 1
    return (place - first) % 2 == 1


def _escaped(content: bytes) -> bytes:
    for raw, escape in ((b"\n", b"\\n"), (b"\r", b"\\r"), (b"\t", b"\\t")):
        content = content.replace(raw, escape) if raw in content else content
    return content


def _unescaped(content: bytes) -> bytes:
    """Return a long string without escapes, with its breaks as spaces.

    Raises:
        RequestValidationError: it holds characters that base64 does not use.
    """
    pieces, start = [], 0
    while start < len(content):
        end = start + SLICE
        near = content.rfind(b"\\", end - LONGEST_ESCAPE, end)
        end = near if near > start and end < len(content) else end  # do not cut inside an escape
        piece = content[start:end].translate(SPACES)
        for escape, character in ESCAPES.items() if b"\\" in piece else ():
            piece = piece.replace(escape, character)
        if not piece.isascii() or b"\\" in piece:
            raise _invalid(f"a string has more than {LONG_STRING:,} bytes and is not base64: shorten it")
        pieces.append(piece)
        start = end
    return b"".join(pieces)
