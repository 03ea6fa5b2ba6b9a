"""Requests that end early: nothing works on the body of a client that left, and no traceback says that it did."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs visualglm[serve]")

from visualglm.serving.listener import drop_cancelled
from visualglm.serving.middleware.request_limits import BodyLimitMiddleware


def test_half_a_body_reaches_nobody() -> None:
    reached: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    messages = iter([{"type": "http.request", "body": b"a" * 9, "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    guard = BodyLimitMiddleware(app, byte_limit=100, second_limit=10)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"10")]}
    asyncio.run(guard(scope, receive, send))
    assert reached == [] and sent[0]["status"] == 499 and guard.held == 0


@pytest.mark.parametrize("kind, logged", [(asyncio.CancelledError, False), (RuntimeError, True)])
def test_only_what_the_server_cancelled_is_not_logged(kind: type[BaseException], logged: bool) -> None:
    try:
        raise kind
    except kind:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "failed", (), sys.exc_info())
    assert drop_cancelled(record) is logged
