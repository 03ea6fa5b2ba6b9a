"""The opener of image URLs: what is not allowed by name, or leads inside, is refused; limits hold; redirects too."""

from __future__ import annotations

import http.server
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from visualglm.errors import ImageError, UsageError
from visualglm.serving import url_fetcher
from visualglm.serving.url_fetcher import ImageFetcher, is_public

UNSAFE = [
    "http://example.com/a.png",  # not the allowed host
    "http://evil-pictures.example/a.png",
    "http://pictures.example.evil.example/a.png",
    "http://sub.pictures.example/a.png",
    "http://pictures.example:22/a.png",
    "http://pictures.example@evil.example/a.png",
    "http://user:secret@pictures.example/a.png",
    "http://pictures.example\\@evil.example/a.png",
    "ftp://pictures.example/a.png",
    "file:///etc/passwd",
    "gopher://pictures.example/1",
    "//pictures.example/a.png",
    "http:///a.png",
    "http://",
    "http://[::1",
    "http://pictures.example:99999/",
    "http://\u2488.example/",
    "http://127.0.0.1/",
    "http://localhost/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://169.254.169.254/latest/meta-data/",
]

INSIDE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.5",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "2002:7f00:1::",
    "2001:0:1234::1",
    "2001:db8::1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("nothing may be resolved or connected to")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("url", UNSAFE)
def test_unsafe_urls_are_refused_before_anything_is_resolved(no_network: None, url: str) -> None:
    for fetcher in (ImageFetcher(["pictures.example"]), ImageFetcher()):
        with pytest.raises(ImageError) as refused:
            fetcher(url)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside_are_no_place_for_images(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert not is_public(address)
    answers = [(0, 0, 0, "", ("8.8.8.8", 80)), (0, 0, 0, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: answers)
    with pytest.raises(ImageError, match="private"):
        ImageFetcher(["pictures.example"])("http://pictures.example/a.png")


@pytest.mark.parametrize("page", ["en", "zh"])
def test_the_docs_tell_what_each_form_gets(monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page / "serving.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)`(?:[^`|\n]* `([^`]+)`)? \| `([^`]+)` \|$", text, re.MULTILINE)
    assert {bool(address) for _, address, _ in rows} == {True, False}
    for url, address, said in rows:
        leads_to = [(0, 0, 0, "", (address, 80))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, leads_to=leads_to, **k: leads_to)
        with pytest.raises(ImageError, match=re.escape(said)):
            ImageFetcher(["pictures.example"])(url)


def test_public_addresses_are_public() -> None:
    assert all(map(is_public, ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111")))


class Pages(http.server.BaseHTTPRequestHandler):
    """A small internet."""

    def do_GET(self) -> None:
        name = self.path.partition("?")[0]
        if name.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", {"/to/end": "/end", "/to/self": "/to/self"}.get(name, name[4:]))
        else:
            self.send_response(200 if name in ("/end", "/huge", "/slow") else 404)
        self.end_headers()
        blocks = {"/end": 1, "/huge": 10_000, "/slow": 10_000}.get(name, 0)
        for _ in range(blocks):
            try:
                self.wfile.write(b"picture" if name != "/huge" else b"x" * 1000)
            except OSError:
                return
            if name == "/slow":
                self.server.pause.wait(0.05)  # type: ignore[attr-defined]

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Yield a server on this machine that passes for public; the port it listens on."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Pages)  # an HTTPServer would ask DNS for its name
    server.pause = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(url_fetcher, "is_public", lambda address: True)
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1", *a, **k))
    yield server.server_address[1]
    server.pause.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def fetcher(port: int, **limits: Any) -> ImageFetcher:
    return ImageFetcher([f"pictures.example:{port}"], **limits)


def test_an_allowed_image_comes(internet: int) -> None:
    for path in ("/end", "/to/end", "/end?size=1"):
        assert fetcher(internet)(f"http://pictures.example:{internet}{path}") == b"picture"
    assert fetcher(internet)(f"HTTP://PICTURES.EXAMPLE.:{internet}/end") == b"picture"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/to/self", "redirects more than 3"),
        ("/to/http://evil.example/end", "not on a host"),
        ("/to/file:///etc/passwd", "http or https"),
        ("/missing", "404"),
        ("/huge", "more than 100000 bytes"),
        ("/slow", "too long"),
    ],
)
def test_limits_and_redirects(internet: int, path: str, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        fetcher(internet, byte_limit=100_000, second_limit=0.5)(f"http://pictures.example:{internet}{path}")


def test_a_redirect_inside_is_checked_again(internet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([True, False])
    monkeypatch.setattr(url_fetcher, "is_public", lambda address: next(seen))
    with pytest.raises(ImageError, match="private"):
        fetcher(internet)(f"http://pictures.example:{internet}/to/end")


@pytest.mark.parametrize("host", ["", "http://a.example", "a.example/b", "a b", "u@a.example", "a.example:x", "[::1"])
def test_invalid_hosts_are_rejected(host: str) -> None:
    with pytest.raises(UsageError, match="--allow-image-domain"):
        ImageFetcher([host])
