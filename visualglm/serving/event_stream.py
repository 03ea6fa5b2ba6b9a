"""Server-sent events (SSE): how an answer is streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Response
from fastapi.responses import StreamingResponse

EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": EVENT}},
        "description": "The whole answer, or server-sent events.",
    }
}
"""OpenAPI's description of an answer that may be streamed; the schema is that of one event."""


def stream_events(events: AsyncIterator[str]) -> Response:
    """Return the response that streams server-sent events."""
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def write_event(data: Mapping[str, Any], name: str | None = None) -> str:
    """Write one server-sent event."""
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
