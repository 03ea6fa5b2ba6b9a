"""Uvicorn with bounds: connections by file descriptors, a deadline for request heads, an orderly end on SIGTERM.

The access log of a request has only its path, the connection's own address and the id of the response.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG
from uvicorn.protocols.http.h11_impl import H11Protocol

from .middleware.request_id import add_request_id

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None

HEAD_SECONDS = 15.0
"""Seconds until a request's head must have arrived, after connecting or after the previous response."""
UNREAD_SECONDS = 120.0
"""Seconds for which a client may read nothing of a response. System buffers delay what is seen of a slow client."""
LAST_SECONDS = 5.0
"""Seconds for which connections stay open on shutdown while no answer is being generated."""
WANTED_FILES = 4096
OTHER_FILES = 32
"""File descriptors that the process needs for itself."""
LOGGED_PATH = 200
"""Maximum characters of a logged path."""
READ_BYTES = 16_384
"""Bytes of one read. h11 handles all of a read before any other connection gets its turn: 256 KB hold 40,000 chunks of
one byte, which take half a second.
"""
DENSE_READ_BYTES = 512
"""Bytes of a read after one with short lines, such as tiny chunks; it doubles while there are none. Tiny chunks are so
slow to parse that ten such connections, at 16 KB a turn, would block all others for seconds.
"""
SHORT_LINE = 32
"""Bytes per line, on average, below which a read counts as one of short lines."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of connections.

    `connections` are open at once; `requests` of them are answered at once, `/health` apart; `backlog` wait.
    """

    connections: int
    requests: int
    backlog: int


def connection_limits() -> ConnectionLimits:
    """Raise the process's limit on file descriptors and derive the limits; each connection may send a file too."""
    files = WANTED_FILES
    if resource is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = max(soft, WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES))
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    free = max(files - OTHER_FILES, 16)
    connections = min(free * 3 // 8, 1000)
    return ConnectionLimits(connections, connections * 3 // 4, min(free // 4, 128))


class BoundedConnection(H11Protocol):
    """A connection that is closed if its head is late, its client does not read, or others need its place."""

    def __init__(self, *given: Any, most: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self.most = most
        self.idle_since = self.loop.time()
        self.unread_timer: asyncio.TimerHandle | None = None
        self.read_bytes = READ_BYTES

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._read_at_most(READ_BYTES)
        self._limit_head()
        if len(self.connections) > self.most:
            idle = [other for other in self.connections if isinstance(other, BoundedConnection) and other.idle]
            oldest = min(idle, key=lambda other: other.idle_since)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        dense = data.count(b"\n") * SHORT_LINE > len(data)
        self._read_at_most(DENSE_READ_BYTES if dense else min(2 * self.read_bytes, READ_BYTES))
        super().data_received(data)
        if self.idle and not self.transport.is_closing():
            self._limit_head()

    def _read_at_most(self, count: int) -> None:
        stream: Any = self.transport
        stream.max_size = self.read_bytes = count  # asyncio's transports use it as the read size

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit_unread(sys.maxsize)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.unread_timer is not None:
            self.unread_timer.cancel()

    def _limit_unread(self, before: int) -> None:
        """Abort if nothing was read since `before` bytes waited to be sent, else look again later."""
        unread = self.transport.get_write_buffer_size()
        if unread >= before:
            self.transport.abort()
        else:
            self.unread_timer = self.loop.call_later(UNREAD_SECONDS, self._limit_unread, unread)

    def _limit_head(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_at(
            self.idle_since + HEAD_SECONDS, self.timeout_keep_alive_handler
        )


class BoundedServer(uvicorn.Server):
    """A server that ends once the running answers are sent, even if clients keep connections open."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.app = app

    async def shutdown(self, sockets: Any = None) -> None:
        self.app.state.engine.finish_decoding()  # a malicious image would keep its connection open, and so the server
        cutting = asyncio.create_task(self._cut())
        await super().shutdown(sockets)
        cutting.cancel()

    async def _cut(self) -> None:
        engine = self.app.state.engine
        last_busy = time.monotonic()
        while time.monotonic() < last_busy + LAST_SECONDS:
            if engine.queued or engine.running:
                last_busy = time.monotonic()
            await asyncio.sleep(0.1)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(1)  # most requests end by themselves once the client is gone
        for task in list(self.server_state.tasks):
            task.cancel()


def make_server(app: FastAPI, limits: ConnectionLimits, host: str, port: int, grace: int) -> BoundedServer:
    """Build a server that runs until SIGTERM, SIGHUP or Ctrl-C; `grace`: seconds for the last answers."""
    config = uvicorn.Config(
        app,
        host,
        port,
        http=partial(BoundedConnection, most=limits.connections),  # type: ignore[arg-type]
        loop="asyncio",  # uvloop, if installed, has its own read size
        ws="none",
        backlog=limits.backlog,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
        log_level="info",
        log_config=log_config(),
    )
    logging.getLogger("uvicorn.access").addFilter(shorten_path)
    for name in ("uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).addFilter(add_request_id)
    logging.getLogger("uvicorn.error").addFilter(drop_cancelled)
    server = BoundedServer(config, app)
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(signal.SIGHUP, server.handle_exit)
    return server


def log_config() -> dict[str, Any]:
    """Return uvicorn's configuration of the log, where a request's line ends in its id."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["formatters"]["access"]["fmt"] += " %(request_id)s"
    return config


def shorten_path(record: logging.LogRecord) -> bool:
    """Remove queries and file names from a line of the access log."""
    if isinstance(record.args, tuple) and len(record.args) == 5:
        client, method, path, *rest = record.args
        record.args = (client, method, re.split("[?=]|%3D", str(path))[0][:LOGGED_PATH], *rest)
    return True


def drop_cancelled(record: logging.LogRecord) -> bool:
    """Drop log records of requests that the server itself cancels when it ends."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
