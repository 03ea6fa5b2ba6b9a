"""Connections: a client that does not read its response gives its place to others; a slow one gets all of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs visualglm[serve]")

import uvicorn
from starlette.types import Receive, Scope, Send

from visualglm.serving import listener
from visualglm.serving.listener import BoundedConnection

pytestmark = pytest.mark.slow

CHUNK = b"x" * 65_536
CHUNKS = 200
"""More than the buffers of the kernel hold."""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, threading.Event]]:
    """Yield the port of a server with a large response, and whether it has ended."""
    monkeypatch.setattr(listener, "UNREAD_SECONDS", 2.0)
    done = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        for _ in range(CHUNKS):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body"})
        done.set()

    connection: Any = partial(BoundedConnection, most=4)
    config = uvicorn.Config(app, "127.0.0.1", 0, http=connection, loop="asyncio", lifespan="off", log_level="warning")
    server, bound = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield bound.getsockname()[1], done
    server.should_exit = True
    thread.join()


def ask(port: int, buffer: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(60)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return client


def test_a_client_that_does_not_read_is_closed(ended: tuple[int, threading.Event]) -> None:
    port, done = ended
    with ask(port, 4096):
        assert done.wait(60), "its request holds a place for good"


def test_a_slow_client_gets_the_whole_response(ended: tuple[int, threading.Event]) -> None:
    port, _ = ended
    size = 0
    with ask(port, 65_536) as client:
        while part := client.recv(65_536):
            size += len(part)
            time.sleep(0.025)
    assert size > CHUNKS * len(CHUNK)
