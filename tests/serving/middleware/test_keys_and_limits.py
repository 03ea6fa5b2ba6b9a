"""Middleware: keys on every path but /health, limits on bodies, loopback's own names, CORS closed."""

from __future__ import annotations

import base64
import dataclasses
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest

from ..conftest import PLAIN, Server, asked

KEY = "s3cret-key"
PATHS = [
    "/",
    "/docs",
    "/openapi.json",
    "/metrics",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/x",
    "/gradio_api/upload",
    "/web",
    "/web/x",
]


@pytest.fixture(scope="module")
def locked(serve: Callable[..., Server]) -> Server:
    return serve(dataclasses.replace(PLAIN, keys=("other", KEY), body_limit=200_000, body_seconds=0.5))


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{key}".encode()).decode()


WRONG_KEYS = ["", KEY, "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", basic("no"), "Basic %", "Digest x"]


@pytest.mark.parametrize(
    ("path", "method", "header"),
    [
        *((path, method, None) for path in PATHS for method in ("GET", "POST", "OPTIONS")),
        *(("/v1/models", "GET", header) for header in WRONG_KEYS),
    ],
)
def test_nothing_but_health_is_open(locked: Server, path: str, method: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    reply = httpx.request(method, f"{locked.url}{path}", headers=headers)
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert KEY not in reply.text


@pytest.mark.parametrize("header", [f"Bearer {KEY}", "bearer other", basic(KEY)])
def test_a_key_opens(locked: Server, header: str) -> None:
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        assert httpx.get(f"{locked.url}{path}", headers={"Authorization": header}).status_code == 200
    assert httpx.get(f"{locked.url}/health").status_code == 200


def test_a_browser_is_asked_for_the_key(locked: Server) -> None:
    assert httpx.get(f"{locked.url}/").headers["www-authenticate"].startswith("Basic")


def test_without_keys_any_header_is_accepted(server: Server) -> None:
    for header in ("Bearer anything", "nonsense"):
        assert httpx.get(f"{server.url}/v1/models", headers={"Authorization": header}).status_code == 200


def test_bodies_are_limited(locked: Server) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    address = f"{locked.url}/v1/chat/completions"
    assert httpx.post(address, content=b"x" * 200_001, headers=headers).status_code == 413
    chunks = (b"x" * 10_000 for _ in range(30))
    assert httpx.post(address, content=chunks, headers=headers).status_code == 413, "without a Content-Length"
    assert httpx.post(address, json=asked("?"), headers=headers).status_code == 200


def test_a_half_sent_body_is_given_up(locked: Server) -> None:
    place = urlsplit(locked.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as raw:
        head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n"
        raw.sendall(head.encode() + b'{"text":')
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_a_page_of_another_name_is_refused(serve: Callable[..., Server]) -> None:
    """DNS rebinding: a foreign page that resolves to 127.0.0.1 comes with its own name."""
    server = serve(dataclasses.replace(PLAIN, trusted_hosts=("localhost", "127.0.0.1", "[::1]")))
    port = urlsplit(server.url).port
    for host in ("localhost", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert httpx.get(f"{server.url}/v1/models", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", f"evil.example:{port}"):
        assert httpx.get(f"{server.url}/v1/models", headers={"Host": host}).status_code == 400, host


def test_cors_is_closed(server: Server) -> None:
    foreign = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    asked_first = httpx.options(f"{server.url}/v1/chat/completions", headers=foreign)
    assert "access-control-allow-origin" not in asked_first.headers
    assert "access-control-allow-origin" not in httpx.get(f"{server.url}/v1/models", headers=foreign).headers


def test_metrics_count_and_hold_nothing_that_was_written(server: Server) -> None:
    httpx.post(f"{server.url}/v1/chat/completions", json=asked("unmistakable words"))
    httpx.get(f"{server.url}/unmistakable-path")
    text = httpx.get(f"{server.url}/metrics").text
    assert 'visualglm_requests_total{route="/v1/chat/completions",status="200"}' in text
    for name in ("queue_length", "completion_tokens_total", "answer_seconds_sum", "image_hits"):
        assert f"visualglm_{name}" in text
    assert "process_resident_memory_bytes" in text
    assert "unmistakable" not in text
