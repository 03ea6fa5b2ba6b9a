"""Attacks on the page over HTTP: no file of the server, no connection to another, no route but those it calls.

Attacks are requests, whatever serves the page; each must be refused with a 4xx that holds nothing of a planted file,
without a name looked up and without a connection.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

pytest.importorskip("fastapi", reason="needs visualglm[serve]")

import httpx
from fastapi import FastAPI

import visualglm
from visualglm.serving.app import ServerSettings, create_app

from ..serving.conftest import SAMPLES, Server, serve

pytestmark = pytest.mark.slow

__all__ = ["serve"]
SECRET = "planted-secret-4711"
API = "/gradio_api/"
Attack = tuple[str, str, Any]


@pytest.fixture(scope="module")
def app(opened: visualglm.VisualGLM) -> FastAPI:
    return create_app(opened, ServerSettings(with_api=False))


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
    """The response to a request whose target is sent as it is: no client tidies its path, no socket is between."""
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
    """The responses, in order."""

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
    places = [f"{API}file=", f"{API}file/", "/file=", "/file/", "/assets/", "/static/", "/svelte/", f"{API}stream/"]
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
    """What the page's framework offers, and the page does not use."""
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


def file_data(**more: Any) -> dict[str, Any]:
    return {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.png", **more}


def payloads(planted: str) -> list[Any]:
    """Values of an input that name a file or an address that is not the page's."""
    named = [planted, "/etc/passwd", "/proc/self/environ", f"{SAMPLES[0]}/../{SAMPLES[0].name}", "", "a", 7, [], {}]
    urls = ["http://evil.example/a.png", "http://127.0.0.1:9/", "https://10.0.0.1/", "file:///etc/passwd"]
    wrong = [file_data(path=path, **more) for path in [*named, *urls] for more in ({}, {"url": urls[0]})]
    wrong += [{"path": planted}, {"path": planted, "is_stream": True}, {"path": planted, "url": "data:,a"}]
    component = {"component": "image", "value": file_data(path=planted), "constructor_args": {}, "props": {}}
    fetching = {"component": "html", "value": "a", "constructor_args": {"head_paths": [planted], "url": urls[0]}}
    deep: Any = wrong[0]
    for _ in range(200):
        deep = [deep]
    return [
        *wrong,
        *({"text": "a", "files": [file]} for file in wrong[:8]),
        *([{"role": "user", "content": [{"type": "file", "file": file}]}] for file in wrong[:8]),
        *([{"role": "user", "content": [{"type": "component", **made}]}] for made in (component, fetching)),
        *(component, {"__type__": "update", "value": file_data(path=planted)}, deep),
    ]


def test_no_handler_takes_what_is_not_an_upload(app: FastAPI, planted: str, contacts: list[Any]) -> None:
    config = send(app, [("GET", "/config", None)])[0]
    handlers = config.json().get("dependencies", []) if config.status_code == 200 else []
    attacks: list[Attack] = []
    for handler in handlers:
        for payload in payloads(planted):
            join = {"data": [payload] * max(1, len(handler["inputs"])), "session_hash": "s", "event_data": None}
            attacks.append(("POST", f"{API}queue/join", {**join, "fn_index": handler["id"]}))
        event = {"data": [], "session_hash": "s", "event_data": {"index": 0, "value": file_data(path=planted)}}
        attacks.append(("POST", f"{API}run/predict", {**event, "fn_index": handler["id"]}))
    check(app, attacks, contacts)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[" * 100_000, b'{"data": [1' + b"0" * 5000 + b"]}", b'{"data": [NaN]}', b"\xff\xfe", b" " * 1_000_001),
        *(b'{"session_hash": "\\ud800", "event_id": "\\ud800"}', b'{"data": [], "fn_index": -1, "session_hash": "a"}'),
        b"null",
    ],
    ids=["empty", "nested", "long-integer", "nan", "bytes", "large", "half-a-surrogate-pair", "function", "null"],
)
@pytest.mark.parametrize("route", ["queue/join", "run/predict", "cancel", "reset"])
def test_a_body_that_is_no_dialogue_is_one_sentence(app: FastAPI, route: str, body: bytes) -> None:
    reply = send(app, [("POST", f"{API}{route}", body)])[0]
    assert reply.status_code == 400
    assert len(reply.json()["error"]["message"]) < 200


@pytest.fixture(scope="module")
def live(serve: Callable[[ServerSettings], Server]) -> Server:
    return serve(ServerSettings())


def upload(live: Server, name: str = "../a b.png", content: bytes | None = None) -> httpx.Response:
    image = SAMPLES[0].read_bytes() if content is None else content
    return httpx.post(f"{live.url}{API}upload", files=[("files", (name, image))])


def answered(live: Server, question: str, camera: Any = None, files: Any = ()) -> dict[str, Any]:
    """What the page gets for a question, over the framework's own routes."""
    config = httpx.get(f"{live.url}/config").json()
    handler = next(it for it in config["dependencies"] if it["api_name"] == "answer")
    data = [{"text": question, "files": list(files)}, None, camera, 0, 1, 80]
    session = secrets.token_hex(8)
    join = {"data": data, "fn_index": handler["id"], "session_hash": session}
    assert httpx.post(f"{live.url}{API}queue/join", json=join).status_code == 200
    address = f"{live.url}{API}queue/data?session_hash={session}"
    with httpx.stream("GET", address, timeout=60) as reply:
        events = (json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: "))
        return next(event["output"] for event in events if event["msg"] == "process_completed")


@pytest.mark.parametrize("by_camera", [False, True])
def test_the_page_itself_works(live: Server, opened: visualglm.VisualGLM, by_camera: bool) -> None:
    question = "这张图片里有什么？"
    path = upload(live).json()[0]
    assert "a b" not in path
    image = {"path": path, "url": f"{live.url}{API}file={path}", "meta": {"_type": "gradio.FileData"}}
    said = answered(live, question, *((image,) if by_camera else (None, [image])))
    expected = opened.conversation(SAMPLES[0]).ask(question, do_sample=False).text
    assert expected in json.dumps(said, ensure_ascii=False)
    served = httpx.get(image["url"])
    assert served.content == SAMPLES[0].read_bytes()
    assert "sandbox" in served.headers["content-security-policy"]


def test_a_camera_image_is_decoded_by_our_bounded_decoder_only(live: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **named: Any) -> Any:
        raise AssertionError("the framework decodes")

    monkeypatch.setattr("gradio.image_utils.preprocess_image", refuse)
    path = upload(live, "camera.webp", b"no image").json()[0]
    said = answered(live, "?", {"path": path, "meta": {"_type": "gradio.FileData"}})
    assert "AssertionError" not in json.dumps(said)


@pytest.mark.parametrize("name", ["a.html", "a.py", "a", "", "a.png/b.sh", "a.png\x00.exe", ".ssh", "../../x"])
def test_only_images_are_stored(live: Server, name: str) -> None:
    before = set(live.app.state.uploads.folder.rglob("*"))
    reply = upload(live, name)
    assert reply.status_code == 400 or (reply.status_code, reply.json()) == (200, [])
    assert set(live.app.state.uploads.folder.rglob("*")) == before


def test_a_form_has_few_files(live: Server) -> None:
    files = [("files", ("a.png", b"a"))] * 65
    assert httpx.post(f"{live.url}{API}upload", files=files).status_code == 400
    assert httpx.post(f"{live.url}{API}upload", content=b"a").status_code in (200, 400)


def test_text_cannot_make_the_browser_leave(live: Server) -> None:
    """Images of other sites in an answer are not loaded, and the page opens in no frame."""
    reply = httpx.get(live.url)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
    assert reply.headers["x-frame-options"] == "DENY" and reply.headers["x-content-type-options"] == "nosniff"


def test_data_urls_in_a_dialogue_are_not_decoded(live: Server) -> None:
    url = f"data:image/png;base64,{base64.b64encode(SECRET.encode()).decode()}"
    said = answered(live, "?", {"path": None, "url": url, "meta": {"_type": "gradio.FileData"}})
    assert SECRET not in json.dumps(said)
    assert not any(SECRET in file.read_text("latin-1") for file in Path(live.app.state.uploads.folder).rglob("*.*"))
