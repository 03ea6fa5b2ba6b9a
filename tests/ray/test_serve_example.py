"""Two replicas say what the plain server says, whole and streamed, and both of them work."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="needs ray[serve]: make test-ray", exc_type=ImportError)
import httpx
from fastapi.testclient import TestClient

import visualglm
from visualglm.serving.app import ServerSettings, create_app

from .conftest import ROOT

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))
QUESTIONS = ("What is in the picture?", "这张图片里有什么？")


def asked(image: Path, question: str, **more: Any) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"model": "visualglm-mini", "messages": [{"role": "user", "content": content}], "max_tokens": 16, **more}


BODIES = [asked(sample, question) for sample in SAMPLES[:4] for question in QUESTIONS]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Yield the example, started as its page says, with two replicas."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "examples" / "ray_serve.py"), "--replicas", "2", "--cpus", "0.5"]
    running = subprocess.Popen(
        [*command, "--port", str(port)], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert running.stderr is not None
    said = []
    try:
        for line in running.stderr:
            said.append(line)
            if "is ready" in line:
                break
        else:
            raise AssertionError("".join(said)[-3000:])
        yield f"http://127.0.0.1:{port}"
    finally:
        running.send_signal(signal.SIGINT)
        running.stderr.close()
        running.wait(120)


@pytest.fixture(scope="module")
def plain() -> list[str]:
    """Return what the plain server answers."""
    app = create_app(visualglm.load(device="cpu"), ServerSettings(with_page=False))
    with TestClient(app) as client:
        return [said(client.post("/v1/chat/completions", json=body)) for body in BODIES]


def said(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def test_two_replicas_answer_as_the_plain_server_does(url: str, plain: list[str]) -> None:
    with httpx.Client(timeout=300) as client, concurrent.futures.ThreadPoolExecutor(8) as threads:
        replies = threads.map(lambda body: client.post(f"{url}/v1/chat/completions", json=body), BODIES * 2)
        assert [said(reply) for reply in replies] == plain * 2
        busy: dict[str, float] = {}
        for _ in range(100):  # each read goes to one of the replicas
            text = client.get(f"{url}/metrics").text
            born = re.findall(r"^process_start_time_seconds (\S+)", text, re.MULTILINE)[0]
            busy[born] = sum(map(float, re.findall(r"^visualglm_answers_total\{.*\} (\S+)", text, re.MULTILINE)))
            if len(busy) == 2:
                break
    assert len(busy) == 2 and all(busy.values()), busy
    assert sum(busy.values()) == 2 * len(BODIES)


def test_answers_are_streamed(url: str, plain: list[str]) -> None:
    body = {**BODIES[0], "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=300) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert "".join(pieces) == plain[0]
    assert sum(map(bool, pieces)) > 1, "it comes piece by piece"


def test_mistakes_are_those_of_the_plain_server(url: str) -> None:
    reply = httpx.post(f"{url}/v1/chat/completions", json={**BODIES[0], "model": "other"}, timeout=300)
    assert (reply.status_code, "no model 'other'" in reply.text) == (404, True)
    assert httpx.get(f"{url}/health", headers={"host": "evil.example"}, timeout=300).status_code == 400
