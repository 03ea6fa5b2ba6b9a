"""Bodies in tiny chunks, which are slow to take apart, keep nobody else waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs visualglm[serve]")

import uvicorn

from visualglm.serving.listener import DENSE_READ_BYTES, READ_BYTES, BoundedConnection

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport(asyncio.Transport):
    """What a connection reads from, with asyncio's own attribute."""

    max_size = 256 * 1024

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def sizes(stream: bytes) -> list[int]:
    """How much of a stream a connection takes in each turn."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(answer, log_level="error")
    config.load()
    connection = BoundedConnection(config, uvicorn.server.ServerState(), {}, asyncio.get_running_loop(), most=10)
    transport = Transport()
    connection.connection_made(transport)
    taken = []
    while stream:
        piece, stream = stream[: transport.max_size], stream[transport.max_size :]
        taken.append(len(piece))
        connection.data_received(piece)
        await asyncio.sleep(0)
    connection.connection_lost(None)
    return taken


@pytest.mark.parametrize("piece", [b"1\r\na\r\n", b"4\r\naaaa\r\n", b"1\r\n\n\r\n", b"1;a=b\r\na\r\n"])
def test_tiny_chunks_are_read_in_tiny_steps(piece: bytes) -> None:
    taken = asyncio.run(sizes(HEAD + piece * 10_000))
    assert max(taken[1:]) <= DENSE_READ_BYTES


def test_larger_chunks_in_between_change_little() -> None:
    """Where every other read is of large chunks, the short lines that are read at once stay few."""
    large = b"200\r\n" + b"a" * 0x200 + b"\r\n"
    taken = asyncio.run(sizes(HEAD + (large * 2 + b"1\r\na\r\n" * 500) * 50))
    assert sum(taken[1:]) / len(taken[1:]) <= 4 * DENSE_READ_BYTES


def test_an_ordinary_body_is_read_in_large_steps() -> None:
    head = HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 1000000")
    taken = asyncio.run(sizes(head + b"a" * 1_000_000))
    assert len(taken) < 1_000_000 / READ_BYTES + 10
