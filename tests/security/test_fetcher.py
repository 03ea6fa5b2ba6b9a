"""The fetcher against hosts that drip, flood or break off: one deadline holds, bytes are limited, errors are ours."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from visualglm.errors import ImageError
from visualglm.serving import url_fetcher
from visualglm.serving.url_fetcher import ImageFetcher

LIMIT = 0.4
"""Seconds a fetch may take in these tests."""
GENEROUS = 20
"""Seconds that a busy machine may take for it."""
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Host:
    """A server that answers each request by a script: a beginning, then a unit again and again, after a pause."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.stopped = threading.Event()
        self.script: tuple[bytes, bytes, float] = (b"", b"", 0.0)
        self.requests: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        beginning, unit, pause = self.script
        with connection:
            try:
                self.requests.append(connection.recv(65536))
                connection.sendall(beginning)
                while unit and not self.stopped.wait(pause):
                    connection.sendall(unit)
            except OSError:
                return


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    found = Host()
    monkeypatch.setattr(url_fetcher, "public_address", lambda name, port: ("127.0.0.1", found.port))
    yield found
    found.stopped.set()
    found.listener.close()


def get(host: Host, path: str = "/a.png", scheme: str = "http", **limits: float) -> bytes:
    fetcher = ImageFetcher([f"images.example:{host.port}"], **{"second_limit": LIMIT, **limits})  # type: ignore[arg-type]
    return fetcher(f"{scheme}://images.example:{host.port}{path}")


@pytest.mark.parametrize(
    ("beginning", "unit"),
    [
        (b"", b"\r"),
        (b"HTTP/1.1 ", b"2"),
        (OK + b"X: ", b"a"),
        (OK, b"X: a\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 100 Continue\r\n", b"X: a\r\n"),
        (CHUNKED, b"0"),
        (CHUNKED + b"1;", b"a"),
        (CHUNKED + b"fffff\r\n", b"a"),
        (CHUNKED + b"0\r\n", b"X: a\r\n"),
        (OK + b"Content-Length: 1000\r\n\r\n", b"a"),
        (OK + b"\r\n", b"a"),
    ],
)
def test_a_host_that_drips_is_given_up_at_the_deadline(host: Host, beginning: bytes, unit: bytes) -> None:
    host.script = (beginning, unit, 0.02)
    started = time.monotonic()
    with pytest.raises(ImageError, match="too long"):
        get(host)
    assert time.monotonic() - started < GENEROUS


def test_a_silent_host_is_given_up(host: Host) -> None:
    host.script = (b"", b"a", GENEROUS)
    with pytest.raises(ImageError, match="too long"):
        get(host)


def test_a_slow_tls_handshake_is_given_up(host: Host) -> None:
    host.script = (b"\x16\x03\x03\x3f\xff", b"\0", 0.02)
    with pytest.raises(ImageError, match="too long"):
        get(host, scheme="https")


def test_a_slow_resolver_is_given_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_fetcher, "public_address", lambda name, port: host.stopped.wait(GENEROUS))
    with pytest.raises(ImageError, match="too long"):
        get(host)


def test_the_resolvers_errors_are_the_fetchers(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, port: int) -> None:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(url_fetcher, "public_address", refuse)
    with pytest.raises(ImageError, match="gaierror"):
        get(host)


@pytest.mark.parametrize(
    ("beginning", "unit"),
    [
        (OK, b"X: " + b"a" * 1000 + b"\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
        (b"HTTP/1.1 100 Continue\r\n", b"X: a\r\n" * 100),
        (CHUNKED, b"1;" + b"a" * 2000 + b"\r\na\r\n"),
        (CHUNKED + b"0\r\n", b"X: a\r\n" * 100),
    ],
)
def test_a_host_that_floods_is_given_up_by_its_bytes(host: Host, beginning: bytes, unit: bytes) -> None:
    host.script = (beginning, unit, 0.0)
    with pytest.raises(ImageError, match=r"HTTPException|LineTooLong"):
        get(host, byte_limit=100_000, second_limit=GENEROUS)


def test_small_chunks_are_read(host: Host) -> None:
    host.script = (CHUNKED + b"1\r\na\r\n" * 500 + b"0\r\n\r\n", b"", 0)
    assert get(host, second_limit=GENEROUS) == b"a" * 500


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/图片/ü.png?名=1", b"/%E5%9B%BE%E7%89%87/%C3%BC.png?%E5%90%8D=1"),
        ("/a%20b.png?x=%2F&y=[1]", b"/a%20b.png?x=%2F&y=[1]"),
        ("/a b\x01\x7f.png", b"/a%20b%01%7F.png"),
        ("/a\r\nX: y", b"/aX:%20y"),
    ],
)
def test_other_characters_of_a_path_are_encoded(host: Host, path: str, asked: bytes) -> None:
    host.script = (OK + b"Content-Length: 1\r\n\r\na", b"", 0)
    assert get(host, path, second_limit=GENEROUS) == b"a"
    assert host.requests[-1].split(b"\r\n")[0] == b"GET " + asked + b" HTTP/1.1"


@pytest.mark.parametrize("path", ["/\ud800", "/a" * 5000, "//[", "/%", "\\\\[::1"])
def test_no_path_is_anything_but_an_image_error(host: Host, path: str) -> None:
    host.script = (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", b"", 0)
    with pytest.raises(ImageError) as refused:
        get(host, path, second_limit=GENEROUS)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "place", [b"http://[", b"http://[::1", b"//[x]/", b"http://a:b/", b"\xff\xfe", b"http://\xe9/"]
)
def test_a_redirect_to_a_broken_url_is_an_image_error(host: Host, place: bytes) -> None:
    host.script = (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + place + b"\r\n\r\n", b"", 0)
    with pytest.raises(ImageError):
        get(host, second_limit=GENEROUS)


def mutated(chance: random.Random) -> bytes:
    """Return a response with bytes changed, removed or repeated."""
    content = bytearray(CHUNKED + b"5\r\nimage\r\n0\r\nX: y\r\n\r\n")
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(content))
        content[place : place + chance.randrange(3)] = chance.choice((b"", b"\xff", b"\r\n", b"-1", b"\0", b":" * 9))
    return bytes(content)


def test_broken_responses_are_image_errors_or_bytes(host: Host) -> None:
    chance = random.Random(3)
    for _ in range(300):
        host.script = (mutated(chance), b"", 0)
        try:
            assert isinstance(get(host, second_limit=GENEROUS), bytes)
        except ImageError as error:
            assert str(error).isprintable()


def test_fetching_has_threads_of_its_own() -> None:
    """Slow hosts take no thread from those that decode data URLs or write prompts."""
    inputs = pytest.importorskip("visualglm.serving.image_reader")
    seen: list[str] = []

    def fetch_slowly(url: str) -> bytes:
        seen.append(threading.current_thread().name)
        return b"x"

    assert asyncio.run(inputs.ImageReader(fetch_slowly).read_all(["http://a/b"])) == [b"x"]
    assert seen[0].startswith("fetcher")


def test_all_images_of_a_request_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = pytest.importorskip("visualglm.serving.image_reader")
    monkeypatch.setattr(inputs, "MAX_IMAGE_BYTES", 250)
    fetched: list[str] = []

    def fetch_large(url: str) -> bytes:
        fetched.append(url)
        return b"x" * 100

    with pytest.raises(ImageError, match="250 bytes"):
        asyncio.run(inputs.ImageReader(fetch_large).read_all(["http://a/b"] * 10))
    assert len(fetched) == 3
