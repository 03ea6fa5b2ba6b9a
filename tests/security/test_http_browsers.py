"""Foreign web pages: whatever changes or computes is refused to them, page and APIs alike, and programs are not."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs visualglm[serve]")

import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse

from visualglm.serving import listener
from visualglm.serving.app import ServerSettings
from visualglm.serving.middleware.request_limits import BODIES_AT_ONCE, BodyLimitMiddleware, RequestLimit
from visualglm.serving.middleware.same_origin import PROTECTION, SameOriginOnly

from ..serving.conftest import PLAIN, Server, asked, serve

__all__ = ["serve"]
WRITES = [
    *(("POST", path) for path in ("/", "/v1/chat/completions", "/v1/x", "/gradio_api/queue/join")),
    *(("POST", path) for path in ("/gradio_api/run/predict", "/gradio_api/upload", "/gradio_api/cancel")),
    *((method, "/v1/chat/completions") for method in ("PUT", "PATCH", "DELETE", "OPTIONS")),
    *(("GET", path) for path in ("/gradio_api/queue/data?session_hash=a", "/gradio_api/heartbeat/a", "/metrics")),
]
FOREIGN: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Origin": ""},
    {"Origin": "chrome-extension://abc"},
    {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "Cross-Site", "Sec-Fetch-Mode": "cors"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
]


@pytest.fixture(scope="module")
def live(serve: Callable[[ServerSettings], Server]) -> Server:
    return serve(ServerSettings())


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: " ".join(headers.values()))
def test_other_sites_pages_are_refused(live: Server, headers: dict[str, str]) -> None:
    for method, path in WRITES:
        reply = httpx.request(method, f"{live.url}{path}", headers=headers)
        assert reply.status_code == 403, (method, path)
        assert {name: reply.headers[name] for name in PROTECTION} == PROTECTION
    assert httpx.get(f"{live.url}/web/main.js", headers=headers).status_code == 403


def test_a_foreign_form_is_refused_though_the_browser_knows_the_key(serve: Callable[..., Server]) -> None:
    locked = serve(dataclasses.replace(PLAIN, keys=("key",)))
    known = {"Authorization": "Basic " + base64.b64encode(b"a:key").decode(), "Origin": "https://evil.example"}
    assert httpx.post(f"{locked.url}/v1/chat/completions", json=asked("?"), headers=known).status_code == 403


def test_a_form_of_text_is_no_json(live: Server) -> None:
    """What a page may send without asking first."""
    for kind in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"):
        headers = {} if kind is None else {"Content-Type": kind}
        for path in ("/", "/v1/chat/completions"):
            body = b'{"text": "?", "model": "visualglm-mini", "messages": [{"role": "user", "content": "?"}]}'
            assert httpx.post(f"{live.url}{path}", content=body, headers=headers).status_code in (400, 415), path


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://visualglm.example", "Host": "visualglm.example"},
        {"Origin": "https://visualglm.example", "Host": "visualglm.example:443"},
        {"Origin": "https://VisualGLM.example:8443", "Host": "visualglm.example:8443"},
        {"Origin": "http://[::1]:8080", "Host": "[::1]:8080"},
    ],
    ids=str,
)
def test_programs_and_the_own_page_go_on(live: Server, headers: dict[str, str]) -> None:
    address = f"{live.url}/v1/chat/completions"
    assert httpx.post(address, json=asked("?", max_tokens=1), headers=headers).status_code == 200
    assert httpx.get(live.url, headers=headers).status_code == 200


def test_a_link_opens_the_page(live: Server) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    reply = httpx.get(live.url, headers=followed)
    assert reply.status_code == 200
    for path in ("/health", "/v1/models", "/v1/nothing", "/assets/nothing", "/web/nothing"):
        found = httpx.get(f"{live.url}{path}").headers
        assert {name: found[name] for name in PROTECTION} == PROTECTION, path


def run(app: Any, **scope: Any) -> int:
    """Return the status that an app answers with."""
    got: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": scope.get("body", b"")}

    async def take(message: Any) -> None:
        got.append(message)

    full = {"type": "http", "method": "POST", "path": "/", "headers": [], **scope}
    asyncio.run(app(full, receive, take))
    return int(got[0].get("status", got[0].get("code")))


def test_a_foreign_websocket_is_closed() -> None:
    headers = [(b"origin", b"https://evil.example"), (b"host", b"127.0.0.1")]
    assert run(SameOriginOnly(Starlette()), type="websocket", headers=headers) == 1008


def test_health_is_answered_while_nothing_else_is() -> None:
    limit = RequestLimit(PlainTextResponse("hello"), limit=0)
    assert (run(limit), run(limit, path="/health")) == (503, 200)
    limit.limit = 1
    assert [run(limit) for _ in range(3)] == [200, 200, 200]


def test_bodies_are_limited_together() -> None:
    limit = BodyLimitMiddleware(PlainTextResponse("hello"), byte_limit=10, second_limit=5)
    assert run(limit, body=b"x" * 10) == 200 and limit.held == 0
    limit.held = BODIES_AT_ONCE * 10 - 9
    assert (run(limit, body=b"x" * 10), run(limit, body=b"x" * 9)) == (503, 200)
    assert limit.held == BODIES_AT_ONCE * 10 - 9


def test_a_log_line_holds_no_query_and_no_file() -> None:
    for path, shown in (
        ("/gradio_api/file%3D/tmp/uploads/passport%20scan.png", "/gradio_api/file"),
        ("/gradio_api/queue/data?session_hash=abc", "/gradio_api/queue/data"),
        ("/v1/" + "x" * 60_000, "/v1/" + "x" * (listener.LOGGED_PATH - 4)),
    ):
        given = ("127.0.0.1:1", "GET", path, "1.1", 200)
        record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', given, None)
        assert listener.shorten_path(record)
        assert record.getMessage() == f'127.0.0.1:1 - "GET {shown} HTTP/1.1" 200'


@pytest.mark.parametrize(("files", "least"), [(64, 8), (1024, 100), (2**20, 500)])
def test_connections_leave_descriptors_for_the_rest(monkeypatch: pytest.MonkeyPatch, files: int, least: int) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    limits = listener.connection_limits()
    assert limits.connections >= least and limits.requests < limits.connections
    assert listener.OTHER_FILES + 2 * limits.connections + limits.backlog <= files
