"""OpenAI's API: its own client works plain, streaming and with its helper; answers are those of `ask`."""

from __future__ import annotations

import functools
import json
import re
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

import visualglm

from ..conftest import PLAIN, SAMPLES, Server, asked, data_url

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 1.3, "seed": 7}, {"temperature": 1.3, "seed": 7}),
        ({"top_p": 0.9, "seed": -3}, {"top_p": 0.9, "seed": -3}),
        ({"stop": ["is"]}, {"stop": ["is"]}),
        ({"max_tokens": 3}, {"max_new_tokens": 3}),
        ({"max_tokens": 9, "max_completion_tokens": 2}, {"max_new_tokens": 2}),
        ({"extra_body": {"language": "zh", "repetition_penalty": 1.2}}, {"language": "zh", "repetition_penalty": 1.2}),
    ],
)
def test_plain_and_stream_say_what_ask_says(
    opened: visualglm.VisualGLM, client: openai.OpenAI, given: dict[str, Any], same: dict[str, Any]
) -> None:
    alone = opened.ask(SAMPLES[0], QUESTION, **same)
    whole = client.chat.completions.create(**asked(QUESTION, SAMPLES[0]), **given)
    assert whole.choices[0].message.content == alone.text
    assert whole.choices[0].finish_reason == alone.finish_reason
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (alone.prompt_tokens, alone.completion_tokens)
    chunks = list(client.chat.completions.create(**asked(QUESTION, SAMPLES[0]), **given, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == alone.text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == [
        alone.finish_reason
    ]
    assert chunks[0].choices[0].delta.role == "assistant"


def test_usage_comes_last_when_it_is_wanted(client: openai.OpenAI) -> None:
    *chunks, last = client.chat.completions.create(
        **asked(QUESTION, SAMPLES[0]), stream=True, stream_options={"include_usage": True}
    )
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None and last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens


def test_the_stream_helper(opened: visualglm.VisualGLM, client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**asked(QUESTION, SAMPLES[1])) as stream:
        kinds = {event.type for event in stream}
        said = stream.get_final_completion().choices[0].message.content
    assert said == opened.ask(SAMPLES[1], QUESTION).text
    assert "content.delta" in kinds


def test_turns_and_images_are_those_of_a_conversation(opened: visualglm.VisualGLM, client: openai.OpenAI) -> None:
    conversation = opened.conversation(SAMPLES[0])
    first = conversation.ask("这张图片里有什么？").text
    second = conversation.ask("一共有几个物体？", image=SAMPLES[1]).text
    messages = asked("这张图片里有什么？", SAMPLES[0])["messages"]
    messages += [{"role": "assistant", "content": first}, *asked("一共有几个物体？", SAMPLES[1])["messages"]]
    said = client.chat.completions.create(model="visualglm-mini", messages=messages).choices[0].message.content
    assert said == second
    alone = client.chat.completions.create(model="visualglm-mini", messages=[{"role": "user", "content": "你好"}])
    assert alone.choices[0].message.content == opened.ask(None, "你好").text


def test_stop_strings_end_the_answer(opened: visualglm.VisualGLM, client: openai.OpenAI) -> None:
    text = opened.ask(SAMPLES[0], QUESTION).text
    stop = text[len(text) // 2 :][:3]
    for stream in (False, True):
        reply = client.chat.completions.create(**asked(QUESTION, SAMPLES[0], stop=[stop, "never"], stream=stream))
        choices = [chunk.choices[0] for chunk in reply] if stream else [reply.choices[0]]
        said = "".join((choice.delta if stream else choice.message).content or "" for choice in choices)
        assert said == text.partition(stop)[0]
        assert choices[-1].finish_reason == "stop"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["visualglm-mini"]
    assert client.models.retrieve("visualglm-mini").id == "visualglm-mini"
    with pytest.raises(openai.NotFoundError, match="visualglm-mini"):
        client.models.retrieve("gpt-4o")
    with pytest.raises(openai.NotFoundError, match="visualglm-mini"):
        client.chat.completions.create(**{**asked("?"), "model": "gpt-4o"})


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        ([{"type": "input_audio"}], "messages.0.content.0", "'text', 'image_url'"),
        ([{"type": "text", "text": "a"}, {"type": "text"}], "messages.0.content.1.text", "required"),
        ([{"type": "input_image"}], "messages.0.content.0.image_url", "required"),
        ([{"type": "image_url", "image_url": ["data:,"]}], "messages.0.content.0.image_url", "string"),
        ([{"type": "image_url", "image_url": {"url": 5}}], "messages.0.content.0.image_url.url", "string"),
        (5, "messages.0.content", "string"),
    ],
)
def test_a_mistake_names_its_place(server: Server, content: Any, place: str, says: str) -> None:
    body = {"model": "visualglm-mini", "messages": [{"role": "user", "content": content}]}
    error = httpx.post(f"{server.url}/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == place and error["message"].startswith(f"{place}: ") and says in error["message"]


def test_other_mistakes_name_theirs(server: Server) -> None:
    post = functools.partial(httpx.post, headers={"Content-Type": "application/json"})
    for path in ("/v1/chat/completions", "/"):
        broken = post(f"{server.url}{path}", content=b"{bad").json()["error"]
        assert broken["param"] is None and broken["message"].startswith("The body: this is not JSON (")
    many = post(f"{server.url}/v1/chat/completions", json=asked("?", stop=["a"] * 5)).json()["error"]
    assert many["param"] == "stop" and "at most 4" in many["message"]
    pair = post(f"{server.url}/", json={"text": "?", "history": [[0, "a"]]}).json()["error"]
    assert pair["param"] == "history.0.0"


BROKEN = "data:image/png;base64," + data_url(SAMPLES[0])[22:222]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "no user message"),
        ({"messages": [{"role": "critic", "content": "hi"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "content"),
        ({"messages": [{"role": "user", "content": "猫" * 5000}]}, "fit"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
    ],
)
def test_mistakes_are_a_400_with_one_sentence(server: Server, change: dict[str, Any], named: str) -> None:
    body = json.dumps({**asked("?"), **change}).encode()
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    error = reply.json()["error"]
    assert reply.status_code == 400, reply.text
    assert named in error["message"]
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "url",
    [
        BROKEN,
        "data:image/png;base64,",
        "data:image/png;base64,%%%",
        "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4=",
        "data:text/plain,hello",
        "/etc/passwd",
        "file:///etc/passwd",
        str(SAMPLES[0]),
        "http://127.0.0.1/a.png",
        "https://example.com/a.png",
        "ftp://example.com/a.png",
        "",
    ],
)
def test_no_image_is_a_400_and_never_a_file(client: openai.OpenAI, url: str) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="visualglm-mini", messages=messages)  # type: ignore[arg-type]
    assert refused.value.body is not None and "root:" not in str(refused.value.body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": 1e999}', b"[" * 100_000])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/"])
def test_bodies_that_are_none(server: Server, body: bytes, path: str) -> None:
    reply = httpx.post(f"{server.url}{path}", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1/", "/v1/completions", "/v1/embeddings", "/v1/files/x", "/v1/chat/completions/x"])
def test_unknown_paths_answer_in_openais_shape(server: Server, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        reply = httpx.request(method, f"{server.url}{path}")
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "not_found_error"


def test_events_are_one_line_of_json_each(server: Server) -> None:
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=asked("换行", SAMPLES[0], stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, done, end = reply.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events)


def test_leaving_stops_the_generation(serve: Callable[..., Server]) -> None:
    server = serve(PLAIN)
    body = json.dumps({"text": "你好", "min_length": 1900, "max_length": 2000}).encode()
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port)) as client:
        client.sendall(head.encode() + body)
        while "visualglm_running 1.0" not in httpx.get(f"{server.url}/metrics").text:
            pass
    assert httpx.post(f"{server.url}/", json={"text": "你好"}, timeout=300).status_code == 200, "the next one's turn"
    text = httpx.get(f"{server.url}/metrics").text
    assert 'visualglm_answers_total{reason="cancelled"} 1.0' in text
    said = re.findall(r"^visualglm_completion_tokens_total (\S+)", text, re.MULTILINE)
    assert float(said[0]) < 1000
