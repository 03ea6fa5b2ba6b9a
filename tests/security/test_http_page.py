"""Attacks on the page over HTTP: no file of the server, no connection to another, no route but the page's files.

Attacks are requests, whatever serves the page; each must be refused with a 4xx that holds nothing of a planted file,
without a name looked up and without a connection. Among them are those on the routes of gradio, which served the page
once.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, unquote

import pytest

pytest.importorskip("fastapi", reason="needs visualglm[serve]")

import httpx
from fastapi import FastAPI

import visualglm
from visualglm.serving.app import ServerSettings, create_app
from visualglm.serving.web.static_page import page_files

from ..serving.conftest import SAMPLES, Server, serve

pytestmark = pytest.mark.slow

__all__ = ["serve"]
SECRET = "planted-secret-4711"
API = "/gradio_api/"
Attack = tuple[str, str, Any]


@pytest.fixture(scope="module")
def app(opened: visualglm.VisualGLM) -> FastAPI:
    return create_app(opened, ServerSettings())


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("planted") / "secret.png"
    file.write_text(SECRET)
    return str(file)


@pytest.fixture
def contacts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Whatever is looked up or connected to while a test runs."""
    seen: list[Any] = []

    def record(*given: Any, **named: Any) -> Any:
        seen.append(given)
        raise OSError("no network in this test")

    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
        monkeypatch.setattr(socket, name, record)
    monkeypatch.setattr(socket.socket, "connect", record)
    monkeypatch.setattr(socket.socket, "connect_ex", record)
    yield seen


async def send_one(app: FastAPI, method: str, target: str, body: Any) -> httpx.Response:
    """Return the response to a request whose target is sent as it is: no client tidies its path."""
    raw, _, query = target.partition("?")
    kind = [] if body is None else [(b"content-type", b"application/json")]
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "root_path": "",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1"), *kind],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    got: list[Any] = []
    parts = iter([{"type": "http.request", "body": content}])

    async def receive() -> Any:
        return next(parts, {"type": "http.disconnect"})

    async def take(message: Any) -> None:
        got.append(message)

    await app(scope, receive, take)
    return httpx.Response(got[0]["status"], content=b"".join(message.get("body", b"") for message in got[1:]))


def send(app: FastAPI, attacks: list[Attack]) -> list[httpx.Response]:
    """Return the responses, in order."""

    async def all_of_them() -> list[httpx.Response]:
        return [await send_one(app, *attack) for attack in attacks]

    return asyncio.run(all_of_them())


def check(app: FastAPI, attacks: list[Attack], contacts: list[Any]) -> None:
    for attack, reply in zip(attacks, send(app, attacks), strict=True):
        assert 400 <= reply.status_code < 500, (attack, reply.status_code)
        assert SECRET not in reply.text and "root:" not in reply.text, attack
    assert contacts == []


def spellings(path: str) -> list[str]:
    """One path in the ways that a careless reader would take for it."""
    once, twice = quote(path, safe=""), quote(quote(path, safe=""), safe="")
    return [
        *(path, once, twice, path.lstrip("/"), f"/{path}", f"//{path}", f"/.{path}", f"/./{path}", f"file://{path}"),
        *(f"..{path}", f"../../../../../..{path}", "..%2f" * 9 + path[1:], "%2e%2e/" * 9 + path[1:]),
        *("..%252f" * 9 + path[1:], "..%5c" * 9 + path[1:], f"{path}%00.png", f"{path}/", f"{path}/.", f"~/..{path}"),
        *(f"/tmp/..{path}", f"{SAMPLES[0]}/../../../../../../../../..{path}", f"visualglm/..{path}", f"file={path}"),
    ]


def test_no_path_reads_a_file(app: FastAPI, planted: str, contacts: list[Any]) -> None:
    files = [planted, "/etc/passwd", "/proc/self/environ", "/proc/self/cmdline", "/dev/zero", "/"]
    places = [
        f"{API}file=",
        f"{API}file/",
        "/file=",
        "/file/",
        "/assets/",
        "/static/",
        "/web/",
        "/web/examples/",
        f"{API}stream/",
    ]
    attacks: list[Attack] = [
        ("GET", f"{place}{spelling}", None) for place in places for file in files for spelling in spellings(file)
    ]
    attacks += [("HEAD", target, None) for _, target, _ in attacks[:20]]
    check(app, attacks, contacts)


def test_no_address_is_fetched(app: FastAPI, contacts: list[Any]) -> None:
    hosts = ["evil.example", "127.0.0.1:9", "100.64.0.1", "169.254.169.254", "[::1]:9", "x.hf.space", "2130706433"]
    forms = ["http://{}/", "https://{}/a.png", "HTTP://{}/", "http:/{}/", "//{}/", "ftp://{}/", "data:text/html,{}"]
    attacks: list[Attack] = [
        ("GET", f"{API}{route}{quoted}", None)
        for route in ("file=", "proxy=", "file/", "login?next=", "deep_link?session_hash=", "?view=")
        for host in hosts
        for form in forms
        for quoted in (form.format(host), quote(form.format(host), safe=""))
    ]
    check(app, attacks, contacts)


def test_other_routes_do_not_exist(app: FastAPI, contacts: list[Any]) -> None:
    """What gradio offered, and what a page of a few files does not have."""
    names = (
        *("api_name", "api/predict", "call/answer", "call/v2/answer", "component_server", "component_server/"),
        *("stream/a", "stream/a/close", "dev/reload", "vibe-edit", "vibe-edit/", "undo-vibe-edit", "vibe-code"),
        *("vibe-code/", "vibe-starter-queries", "process_recording", "runs", "run-history/connect", "info", "token"),
        *("run-history/records", "profiling/traces", "mcp", "mcp/sse", "openapi.json", "user", "app_id", "run/answer"),
        *("queue/status", "upload_progress?upload_id=a", "custom_component/a/client/b/c", "deep_link", "call/a/b"),
    )
    below = [f"{API}{name}" for name in names]
    above = ["/login", "/logout", "/monitoring", "/monitoring/summary", "/manifest.json", "/pwa_icon", "/robots.txt"]
    attacks: list[Attack] = [
        (method, path, {} if method == "POST" else None)
        for path in [*below, *above, "//", "/.", "/%2e%2e/", "/gradio_api", API, f"{API}../config", "/x/gradio_api/"]
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH")
    ]
    check(app, attacks, contacts)


@pytest.fixture(scope="module")
def live(serve: Callable[[ServerSettings], Server]) -> Server:
    return serve(ServerSettings(keys=("key",)))


def test_only_get_and_head_read_the_pages_files(app: FastAPI, contacts: list[Any]) -> None:
    attacks: list[Attack] = [
        (method, path, {})
        for path in ("/web/main.js", "/web/style.css", "/web/examples/moon.png", "/web/index.html", "/web", "/web/")
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND")
    ]
    check(app, [*attacks, ("POST", "/", {}), ("POST", "/?view=http://evil.example/", {})], contacts)


def test_the_pages_files_need_no_key_and_nothing_else_is_open(live: Server) -> None:
    for path, file in page_files().items():
        reply = httpx.get(f"{live.url}{path}")
        assert reply.status_code == 200 and reply.content == file.read_bytes(), path
        head = httpx.head(f"{live.url}{path}")
        assert head.status_code == 200 and head.content == b""
        assert head.headers["content-length"] == reply.headers["content-length"]
    for path in ("/v1/models", "/web/x", "/web/", "/web/index.html", "/web/MAIN.js", "/web/main.js/", "/x", "/docs"):
        assert httpx.get(f"{live.url}{path}").status_code == 401, path


def test_the_page_is_small_and_takes_nothing_from_elsewhere() -> None:
    files = page_files().values()
    assert sum(file.stat().st_size for file in files) < 100_000
    for file in files:
        if file.suffix in (".html", ".css", ".js"):
            found = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in found and "https:" not in found and "//" not in found.replace("// ", ""), file
            assert "innerHTML" not in found and " style=" not in found and "onclick=" not in found, file


def test_the_policy_of_the_page_is_strict(live: Server) -> None:
    for path in ("/", "/web/main.js"):
        headers = httpx.get(f"{live.url}{path}").headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:")
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
