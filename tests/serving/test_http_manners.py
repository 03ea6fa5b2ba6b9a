"""Methods, media types, ids of requests, other origins, and the page of the OpenAPI document."""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from visualglm.errors import UsageError
from visualglm.serving.listener import add_request_id
from visualglm.serving.middleware.allowed_origins import parse_origins

from .conftest import PLAIN, Server, asked

POSTS = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/")
GETS = ("/health", "/metrics", "/v1/models", "/v1/models/visualglm-mini", "/openapi.json", "/docs")
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    whole, head = httpx.get(f"{server.url}{path}"), httpx.head(f"{server.url}{path}")
    assert (head.status_code, head.content) == (200, b"") == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_a_405_that_names_the_right_ones(server: Server, method: str) -> None:
    for path in POSTS:
        reply = httpx.request(method, f"{server.url}{path}")
        assert (reply.status_code, reply.headers["allow"]) == (405, "POST"), path
    for path in GETS if method not in ("GET", "HEAD") else ():
        reply = httpx.request(method, f"{server.url}{path}")
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD"), path
        assert reply.json()["error"]["code"] == "method_not_allowed"


def test_methods_of_the_page(serve: Callable[..., Server]) -> None:
    server = serve(dataclasses.replace(PLAIN, with_page=True))
    assert httpx.put(f"{server.url}/").headers["allow"] == "GET, HEAD, POST"
    refused = httpx.post(f"{server.url}/web/main.js")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert httpx.post(f"{server.url}/", json={"text": "?"}).status_code == 200


def test_an_unknown_path_is_told_what_there_is(server: Server) -> None:
    for path in ("/v1/embeddings", "/v1/responses/resp_1", "/v1", "/health/", "/nothing"):
        error = httpx.post(f"{server.url}{path}").json()["error"]
        assert error["code"] == "unknown_url"
        for known in ("POST /v1/chat/completions", "POST /v1/responses", "GET /v1/models"):
            assert known in error["message"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Content-Type": "text/plain"}, "not JSON"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, "not JSON"),
        ({}, "not JSON"),
        ({**JSON, "Content-Encoding": "gzip"}, "compressed"),
        ({**JSON, "Content-Encoding": "gzip, br"}, "compressed"),
    ],
)
def test_what_is_not_plain_json_is_a_415(server: Server, path: str, headers: dict[str, str], says: str) -> None:
    body = gzip.compress(json.dumps(asked("?")).encode())
    reply = httpx.post(f"{server.url}{path}", content=body, headers=headers)
    assert reply.status_code == 415 and says in reply.json()["error"]["message"]
    assert ("accept-encoding" in reply.headers) == (says == "compressed")


@pytest.mark.parametrize(
    ("body", "says"),
    [(b'{"a": "\xff"}', "byte 0xff at position 7"), ('{"text": "狗"}'.encode("gbk"), "byte 0xb9 at position 10")],
)
def test_what_is_not_utf8_is_named(server: Server, body: bytes, says: str) -> None:
    for path in POSTS:
        error = httpx.post(f"{server.url}{path}", content=body, headers=JSON).json()["error"]
        assert f"{says} is not UTF-8" in error["message"]


def test_every_response_has_an_id_of_its_own(server: Server) -> None:
    replies = [
        httpx.get(f"{server.url}/health"),
        httpx.get(f"{server.url}/nothing"),
        httpx.post(f"{server.url}/v1/chat/completions", json={}),
        httpx.get(f"{server.url}/health", headers={"X-Request-ID": "mine", "Origin": "https://evil.example"}),
    ]
    names = [reply.headers["x-request-id"] for reply in replies]
    assert len(set(names)) == len(replies) and all(re.fullmatch("req_[0-9a-f]{32}", name) for name in names)


def test_a_failure_has_the_id_in_the_log(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(server.engine, "ask", fail)
    for path, body in (("/v1/chat/completions", asked("?")), ("/v1/responses", {"input": "?"}), ("/", {"text": "?"})):
        caplog.clear()
        reply = httpx.post(f"{server.url}{path}", json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "server_error")
        assert "unforeseen" not in reply.text
        assert f"{reply.headers['x-request-id']}: a request failed" in caplog.text
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_a_line_of_the_log_without_a_request_has_no_id() -> None:
    record = logging.LogRecord("uvicorn.error", logging.INFO, "", 1, "started", None, None)
    assert add_request_id(record) and record.__dict__["request_id"] == "" and record.msg == "started"


APP = "http://localhost:3000"


@pytest.fixture(scope="module")
def shared(serve: Callable[..., Server]) -> Server:
    return serve(dataclasses.replace(PLAIN, origins=(APP, "app://obsidian.md"), keys=("key",)))


def test_a_page_of_a_named_origin_is_answered(shared: Server) -> None:
    """As browsers ask: first without a key whether they may, then with it."""
    preflight = {"Origin": APP, "Access-Control-Request-Method": "POST", "Sec-Fetch-Site": "cross-site"}
    preflight["Access-Control-Request-Headers"] = "authorization,content-type,x-stainless-os"
    allowed = httpx.options(f"{shared.url}/v1/chat/completions", headers=preflight)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == APP
    assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]
    given = {"Origin": APP, "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer key"}
    reply = httpx.post(f"{shared.url}/v1/chat/completions", json=asked("?"), headers=given)
    assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == APP
    assert "x-request-id" in reply.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in reply.headers
    refused = httpx.post(f"{shared.url}/v1/chat/completions", json=asked("?"), headers={"Origin": APP})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize("origin", ["http://localhost:3001", "https://localhost:3000", "null", f"{APP}.evil.example"])
def test_pages_of_other_origins_are_still_refused(shared: Server, origin: str) -> None:
    given = {"Origin": origin, "Authorization": "Bearer key", "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "POST"):
        reply = httpx.request(method, f"{shared.url}/v1/chat/completions", json=asked("?"), headers=given)
        assert reply.status_code == 403 and "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    "origin", ["*", "null", "localhost", "http://a.example/", "http://a.example/x", "http://a b", ""]
)
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(UsageError, match="--allow-origin"):
        parse_origins([origin])
    assert parse_origins(["HTTP://Localhost:3000", "http://[::1]:8080"]) == (
        "http://localhost:3000",
        "http://[::1]:8080",
    )


def test_the_page_of_the_document_loads_nothing(server: Server) -> None:
    page = httpx.get(f"{server.url}/docs")
    assert "default-src 'none'; style-src 'sha256-" in page.headers["content-security-policy"]
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/models", "/health"):
        assert path in page.text
    assert "max_completion_tokens" in page.text and "<script" not in page.text
    assert re.findall(r'(?:src|href)="([^"]*)"', page.text) == ["/openapi.json"]


def test_the_document_says_how_keys_are_sent(server: Server, shared: Server) -> None:
    free = httpx.get(f"{server.url}/openapi.json").json()
    locked = httpx.get(f"{shared.url}/openapi.json", headers={"x-api-key": "key"}).json()
    assert set(free["components"]["securitySchemes"]) == {"bearer", "header", "basic"}
    assert {} in free["security"] and {} not in locked["security"] and {"bearer": []} in locked["security"]
    assert locked["paths"]["/health"]["get"]["security"] == []
