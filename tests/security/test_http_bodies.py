"""Bodies that cost more than their bytes: each is refused before the work, off the event loop, in one sentence."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from visualglm.errors import ImageError, PromptError
from visualglm.preprocessing import images, prompt
from visualglm.preprocessing.prompt import Turn, build_prompt

pytest.importorskip("fastapi")
import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

import visualglm
from visualglm.serving import json_body
from visualglm.serving.api.openai_schema import MAX_PARTS, ChatRequest
from visualglm.serving.api.upstream_api import UpstreamRequest
from visualglm.serving.app import ServerSettings, create_app
from visualglm.serving.error_responses import MAX_MESSAGE, printable
from visualglm.serving.listener import READ_BYTES, BoundedConnection

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
SIZE = 3_000_000
"""Bytes of a hostile string or list: enough for every limit, and soon made."""


def upstream(image: bytes = b"", text: bytes = b"?", history: bytes = b"[]") -> bytes:
    return b'{"text":"' + text + b'","image":"' + image + b'","history":' + history + b"}"


def chat(content: bytes) -> bytes:
    return b'{"model":"visualglm-mini","messages":[{"role":"user","content":' + content + b"}]}"


def fill(unit: bytes, size: int = SIZE) -> bytes:
    return unit * (size // len(unit))


STRUCTURES = {
    "percent signs": upstream(fill(b"%")),
    "percent-escapes": upstream(fill(b"%41", 9_000_000)),
    "base64 repeated": upstream(b"data:" + fill(b";base64", 15_000_000)),
    "escapes": upstream(fill(b"\\u732b", 15_000_000)),
    "escaped quotes": upstream(text=fill(b'\\"')),
    "Chinese text": upstream(text=fill("猫".encode())),
    "spaces": fill(b" "),
    "zeros": fill(b"\0"),
    "quotes": fill(b'"'),
    "words": chat(b'"' + fill(b"a b ", 6_000_000) + b'"'),
    "commas in a text": chat(b'"' + fill(b"a,") + b'"'),
    "numbers": upstream(history=b"[" + fill(b"1,") + b"1]"),
    "lists": upstream(history=b"[" + fill(b"[],") + b"1]"),
    "depth": fill(b"["),
    "depth of objects": fill(b'{"a":'),
    "keys": b"{" + b",".join(b'"%d":1' % number for number in range(200_000)) + b"}",
    "parts": chat(b"[" + b",".join([b'{"type":"text","text":"a"}'] * 110_000) + b"]"),
}
"""Refused by counting bytes."""
CONTENTS = {
    "a long string that is not base64": upstream(fill(b"A") + "😀".encode()),
    "a long string with other escapes": upstream(fill(b"A") + b"\\u001b"),
    "a long text": upstream(text=fill(b"a")),
    "a long message": chat(b'"' + fill(b"a") + b'"'),
    "a long URL": chat(b'[{"type":"image_url","image_url":{"url":"http://a/' + fill(b"a") + b'"}}]'),
    "a long path": chat(b'[{"type":"image_url","image_url":{"url":"' + fill(b"a") + b'"}}]'),
    "a long header of a data URL": chat(b'[{"type":"image_url","image_url":{"url":"data:' + fill(b"a") + b'"}}]'),
    "a long kind of part": chat(b'[{"type":"' + fill(b"a") + b'"}]'),
    "a long role": b'{"model":"visualglm-mini","messages":[{"role":"' + fill(b"a") + b'","content":"a"}]}',
    "padding": upstream(fill(b"=")),
    "a number of many digits": b'{"text":"?","seed":' + fill(b"1") + b"}",
    "many wrong pairs": upstream(history=b"[" + b",".join([b"[1,2]"] * 30_000) + b"]"),
    "many pairs": upstream(history=b"[" + b",".join([b'["",""]'] * 3_000) + b"]"),
    "many wrong messages": b'{"model":"m","messages":[' + b",".join([b"{}"] * 40_000) + b"]}",
    "many wrong parts": chat(b"[" + b",".join([b"{}"] * 40_000) + b"]"),
    "many parts": chat(b"[" + b",".join([b'{"type":"text","text":"a"}'] * (MAX_PARTS + 1)) + b"]"),
    "a text that does not fit": upstream(text=fill("猫".encode(), 60_000)),
    "control characters": b'{"model":"' + b"\\u001b]0;x\\u0007" * 9 + b'","messages":[{"role":"user","content":"a"}]}',
}
"""Refused later."""


@pytest.fixture(scope="module")
def app(opened: visualglm.VisualGLM) -> FastAPI:
    found = create_app(opened, ServerSettings(with_page=False))
    found.state.engine.start()
    return found


def post(app: FastAPI, path: str, body: bytes, **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, content=body, headers={**JSON, **headers})

    return asyncio.run(send())


def check_refusal(reply: httpx.Response, *statuses: int) -> str:
    """One sentence in OpenAI's shape, short and printable."""
    assert reply.status_code in statuses, reply.text[:300]
    error = reply.json()["error"]
    message = str(error["message"])
    assert message.isprintable() and len(message) <= MAX_MESSAGE
    assert error["param"] is None or error["param"].isprintable()
    return message


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_is_refused_before_it_is_parsed(name: str, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body, "from_json", lambda *given, **named: pytest.fail("it was parsed"))
    body = STRUCTURES[name]
    tracemalloc.start()
    with pytest.raises(RequestValidationError):
        json_body.parse(body, UpstreamRequest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * json_body.SLICE
    check_refusal(post(app, CHAT, body), 400)


@pytest.mark.parametrize("name", CONTENTS)
def test_contents_are_refused_in_a_few_copies_of_the_body(name: str, app: FastAPI) -> None:
    body = CONTENTS[name]
    tracemalloc.start()
    check_refusal(post(app, "/" if body.startswith(b'{"text"') else CHAT, body), 400, 404)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(body) + 20_000_000


@pytest.mark.parametrize("name", [name for name in CONTENTS if name.startswith("many")])
def test_a_list_stops_at_its_first_error(name: str) -> None:
    for model in (ChatRequest, UpstreamRequest):
        with pytest.raises(RequestValidationError) as refused:
            json_body.parse(CONTENTS[name], model)
        assert len(refused.value.errors()) < 5


@pytest.mark.parametrize("path", ["/", CHAT])
def test_a_large_body_is_parsed_in_a_thread(path: str, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    parse = json_body.parse

    def record(body: bytes, model: Any) -> Any:
        threads.append(threading.current_thread())
        return parse(body, model)

    monkeypatch.setattr(json_body, "parse", record)
    for size in (10, json_body.INLINE_BYTES):
        post(app, path, b" " * size)
    loop = threading.current_thread()
    assert [thread is loop for thread in threads] == [True, True]
    check_refusal(post(app, path, b" " * (json_body.INLINE_BYTES + 1)), 400)
    assert threads[-1] is not loop


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda text: text,
    "escaped slashes": lambda text: text.replace(b"/", b"\\/"),
    "escaped marks": lambda text: text.replace(b"+", b"\\u002B").replace(b"/", b"\\u002f").replace(b"=", b"\\u003d"),
    "escaped breaks": lambda text: b"\\r\\n".join(text[start : start + 76] for start in range(0, len(text), 76)),
    "raw breaks": lambda text: b"\r\n".join(text[start : start + 76] for start in range(0, len(text), 76)),
    "URL-safe": lambda text: text.translate(bytes.maketrans(b"+/", b"-_")),
    "percent-escapes": lambda text: quote(text, safe="").encode(),
    "no padding": lambda text: text.rstrip(b"="),
}


@pytest.mark.parametrize("long_string", [100, json_body.LONG_STRING])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_way_of_writing_an_image_is_read(name: str, long_string: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body, "LONG_STRING", long_string)
    chance = random.Random(5)
    for size in (0, 1, 2, 3, 99, 700, 1501):
        for length in (61, 64, 1 << 20):
            monkeypatch.setattr(json_body, "SLICE", length)
            monkeypatch.setattr(images, "BASE64_SLICE", length)
            image = chance.randbytes(size)
            text = ENCODERS[name](base64.b64encode(image))
            for start in (b"", b"data:image/png;base64,", b"DATA:;x=y;BASE64,"):
                asked = json_body.parse(upstream(start + text), UpstreamRequest)
                assert asked.images() == ([image] if start or text else [])


def test_texts_are_read_as_they_are_written() -> None:
    text = 'a\\"b\\\\\\n\n\r\t\\u732b猫 \\ud83d\\ude00'
    asked = json_body.parse(b"\xef\xbb\xbf" + upstream(text=text.encode()), UpstreamRequest)
    assert asked.text == 'a"b\\\n\n\r\t猫猫 😀'


@pytest.mark.parametrize("text", ["\ud800", "a\udc00", "\ud800\ud800"])
def test_half_a_surrogate_pair_is_refused(app: FastAPI, text: str) -> None:
    body = json.dumps({"text": text}).encode()
    assert "surrogate" in check_refusal(post(app, "/", body), 400)


def test_base64_is_decoded_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    decode = base64.b64decode

    def record(text: bytes, **named: Any) -> bytes:
        lengths.append(len(text))
        return decode(text, **named)

    monkeypatch.setattr(base64, "b64decode", record)
    image = bytes(3_500_000)
    tracemalloc.start()
    assert images.base64_bytes(base64.b64encode(image).decode()) == image
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(lengths) <= images.BASE64_SLICE + 4 and len(lengths) > 3
    assert peak < 6 * len(image)


@pytest.mark.parametrize("unit", ["%", "%4", "%zz", "=", "猫", "\ud800", "A=", "!"])
def test_broken_base64_is_an_image_error(unit: str) -> None:
    for size in (1, 2, 500, images.BASE64_SLICE // 2):
        with pytest.raises(ImageError) as refused:
            images.data_url_bytes("data:image/png;base64,AAA" + unit * size + "!")
        assert len(str(refused.value)) < 200


def test_a_name_never_reaches_a_terminal_as_it_is(app: FastAPI) -> None:
    async def get(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path)

    for place in ("/v1/models/%1b[2J%0a", "/v1/%1b%07", "/x%1b]0;a%07%c2%9b"):
        message = check_refusal(asyncio.run(get(place)), 404)
        assert "\\x1b" in message or "\\\\x1b" in message
    assert printable("\x1b[2J\r\n\u202e\ud800猫", 99) == "\\x1b[2J\\r\\n\\u202e\\ud800猫"
    assert printable("\0" * 10**6, 500) == ("\\x00" * 125)


def test_a_client_that_leaves_in_its_body_is_no_error_of_the_server(app: FastAPI) -> None:
    """An error would write sixty lines into the log for each."""
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    for path in ("/", CHAT):
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "root_path": ""}
        scope |= {"headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}
        scope |= {"scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1), "http_version": "1.1"}
        asyncio.run(app(scope, receive, send))
        messages += [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    assert [message["status"] for message in sent if "status" in message] == [499, 499]


def test_encoded_images_are_not_kept_while_a_request_waits(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []

    async def stop(*given: Any, **named: Any) -> None:
        kept.append(given[1])
        raise ImageError("seen.")

    monkeypatch.setattr(app.state.engine, "ask", stop)
    parsed: list[Any] = []
    parse = json_body.parse
    monkeypatch.setattr(json_body, "parse", lambda *given: parsed.append(parse(*given)) or parsed[-1])
    url = "data:image/png;base64,AAAA"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
    body = {"model": "visualglm-mini", "messages": [{"role": "user", "content": content}]}
    check_refusal(post(app, CHAT, json.dumps(body).encode()), 400)
    check_refusal(post(app, "/", upstream(b"AAAA")), 400)
    assert kept == [[b"\0\0\0"]] * 2
    assert "AAAA" not in str([asked.model_dump() for asked in parsed])


def test_a_connection_is_read_in_small_steps() -> None:
    sizes: list[int] = []

    class Recorded(BoundedConnection):
        def data_received(self, data: bytes) -> None:
            sizes.append(len(data))
            super().data_received(data)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            while (await receive()).get("more_body"):
                pass
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    protocol: Any = partial(Recorded, most=10)
    server = uvicorn.Server(uvicorn.Config(answer, port=0, http=protocol, log_level="error", loop="asyncio"))
    bound = server.config.bind_socket()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    address = f"http://127.0.0.1:{bound.getsockname()[1]}/"
    assert httpx.post(address, content=b"a" * 1_000_000, timeout=60).status_code == 200
    server.should_exit = True
    thread.join()
    assert sum(sizes) > 1_000_000 and max(sizes) <= READ_BYTES


class CountingTokenizer:
    """A token for each character but some; remembers how much it encoded."""

    bos_token_id, eos_token_id, gmask_token_id = 1, 2, 3

    def __init__(self) -> None:
        self.encoded = 0

    def encode_plain(self, text: str) -> list[int]:
        self.encoded += len(text)
        return [4 + ord(character) for character in text if character != "\x10"]


def ids_of(turns: list[Turn], tokenizer: CountingTokenizer, room: int = 500) -> Any:
    return build_prompt(tokenizer, turns, language="en", image_token_id=9, image_length=4, max_tokens=room)


def test_a_huge_dialogue_is_never_encoded_whole() -> None:
    tokenizer = CountingTokenizer()
    huge = Turn("a" * 10**6, "b" * 10**6)
    assert ids_of([huge, Turn("c", "d"), Turn("e")], tokenizer).dropped_turns == 1
    with pytest.raises(PromptError, match="fit"):
        ids_of([Turn("f", "g"), Turn("a" * 10**6)], tokenizer)
    assert tokenizer.encoded < 10 * prompt.SLICE


def test_counting_in_slices_changes_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(4)
    for _ in range(60):
        lengths = [chance.choice((0, 3, 40, 300)) for _ in range(chance.randrange(1, 40))]
        turns = [Turn("\x10" * (length % 7) + "a" * length, "b" * length, length % 2) for length in lengths]
        turns.append(Turn("c" * chance.choice((1, 100)), None, 1))
        whole = ids_of(turns, CountingTokenizer())
        with monkeypatch.context() as small:
            small.setattr(prompt, "SLICE", chance.choice((10, 64, 200)))
            small.setattr(prompt, "SLICE_ERROR", 1)
            assert ids_of(turns, CountingTokenizer()) == whole
