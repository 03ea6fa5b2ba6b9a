"""Fixtures: the packed model once, and servers around it, in the process (ASGI) or on a port of their own."""

from __future__ import annotations

import base64
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

import visualglm
from visualglm.serving.app import ServerSettings, create_app

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))
PLAIN = ServerSettings(with_page=False)


def data_url(image: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"


def asked(question: str, *images: Path, **more: Any) -> dict[str, Any]:
    """Return a chat request about images."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    content = [*parts, {"type": "text", "text": question}]
    return {"model": "visualglm-mini", "messages": [{"role": "user", "content": content}], **more}


@dataclasses.dataclass
class Server:
    url: str
    app: FastAPI

    @property
    def engine(self) -> Any:
        return self.app.state.engine


@pytest.fixture(scope="module")
def serve(opened: visualglm.VisualGLM) -> Iterator[Callable[[ServerSettings], Server]]:
    """Start servers that end with the module."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(settings: ServerSettings) -> Server:
        app = create_app(opened, settings)
        config = uvicorn.Config(app, "127.0.0.1", 0, log_level="warning")
        server = uvicorn.Server(config)
        bound = config.bind_socket()
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        running.append((server, thread))
        found = Server(f"http://127.0.0.1:{bound.getsockname()[1]}", app)
        httpx.get(f"{found.url}/health", timeout=60)  # the socket listens already: this waits for the start
        return found

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(serve: Callable[[ServerSettings], Server]) -> Server:
    return serve(PLAIN)
