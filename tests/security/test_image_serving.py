"""Clients that send images which take long: leaving frees the decoder, and shutting down ends the decoding."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs visualglm[serve]")
import httpx
import uvicorn

import visualglm
from visualglm.preprocessing.prompt import Turn
from visualglm.serving.app import ServerSettings, create_app
from visualglm.serving.engine.engine import Engine, QueueFullError
from visualglm.serving.engine.job import QueueTimeoutError
from visualglm.serving.engine.limits import EngineLimits
from visualglm.serving.metrics import Metrics

from .image_attacks import ATTACKS

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))
TURNS = [Turn("?", image_count=1)]


@pytest.fixture
def engine(opened: visualglm.VisualGLM) -> Iterator[Callable[..., Engine]]:
    """Start engines that end with the test."""
    engines: list[Engine] = []

    def start(**limits: Any) -> Engine:
        engines.append(Engine(opened, EngineLimits(**limits), Metrics()))
        engines[-1].start()
        return engines[-1]

    yield start
    for started in engines:
        started.close()


async def answer(engine: Engine, content: bytes) -> str:
    job = await engine.ask(TURNS, [content], max_new_tokens=2)
    return "".join([piece async for piece in job.pieces()])


def test_who_leaves_frees_the_decoder(child: list[str], engine: Callable[..., Engine]) -> None:
    async def work(started: Engine) -> None:
        hostile = asyncio.ensure_future(answer(started, b"x"))
        await asyncio.sleep(0.3)
        hostile.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hostile
        child.clear()
        assert await asyncio.wait_for(answer(started, SAMPLES[0].read_bytes()), 120)

    asyncio.run(work(engine(decoders=1, decode_seconds=600)))


def test_decoding_counts_into_the_requests_time(child: list[str], engine: Callable[..., Engine]) -> None:
    async def work(started: Engine) -> None:
        waiting = [asyncio.ensure_future(answer(started, bytes([number]))) for number in range(3)]
        for one in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(one, QueueTimeoutError), "also who only waited for the decoder"

    asyncio.run(work(engine(decoders=1, decode_seconds=600, time_limit=0.5)))


def test_shutting_down_ends_the_decoding(
    child: list[str], engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visualglm.serving.engine.engine.CLOSING_SECONDS", 0.2)

    async def work(started: Engine) -> None:
        waiting = [asyncio.ensure_future(answer(started, bytes([number]))) for number in range(3)]
        await asyncio.sleep(0.3)
        started.finish_decoding()
        for one in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 120):
            assert isinstance(one, QueueFullError)

    asyncio.run(work(engine(decoders=1, decode_seconds=600)))


def body(content: bytes) -> dict[str, Any]:
    return {"text": "?", "image": base64.b64encode(content).decode()}


def test_a_client_that_closes_its_connection_frees_the_decoder(child: list[str], opened: visualglm.VisualGLM) -> None:
    limits = EngineLimits(decoders=1, decode_seconds=600)
    app = create_app(opened, dataclasses.replace(ServerSettings(with_page=False), limits=limits))
    config = uvicorn.Config(app, "127.0.0.1", 0, log_level="warning")
    server, bound = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    chat = {"model": "visualglm-mini", "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}]}
    part = {"type": "image_url", "image_url": {"url": "data:;base64,eA=="}}
    chat["messages"][0]["content"].append(part)  # type: ignore[index]
    try:
        httpx.get(f"{url}/health", timeout=60)
        for path, hostile in (("/", body(b"x")), ("/v1/chat/completions", chat)):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}{path}", json=hostile, timeout=1)
        child.clear()
        assert httpx.post(f"{url}/", json=body(SAMPLES[0].read_bytes()), timeout=120).status_code == 200
        for name in ("webp canvas", "jpeg scans", "tiff tile"):
            refused = httpx.post(f"{url}/", json=body(ATTACKS[name]()), timeout=120)
            assert refused.status_code == 400 and "too costly" in refused.json()["error"]["message"]
    finally:
        server.should_exit = True
        thread.join()
