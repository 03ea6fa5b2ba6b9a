"""Upstream's `POST /`: the same shape, the new turn in the history, an image that may be missing or line-wrapped."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

import visualglm

from ..conftest import SAMPLES, Server

QUESTION = "描述这张图片。"
ENCODED = base64.b64encode(SAMPLES[0].read_bytes()).decode()
WRAPPED = base64.encodebytes(SAMPLES[0].read_bytes()).decode()


def post(server: Server, **body: Any) -> Any:
    reply = httpx.post(f"{server.url}/", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("image", [ENCODED, WRAPPED, f"data:image/png;base64,{ENCODED}"])
def test_the_shape_and_the_answer(opened: visualglm.VisualGLM, server: Server, image: str) -> None:
    reply = post(server, image=image, text=QUESTION, history=[])
    assert set(reply) == {"result", "history", "status", "time"}
    assert reply["result"] == opened.ask(SAMPLES[0], QUESTION).text
    assert reply["history"] == [[QUESTION, reply["result"]]]
    assert reply["status"] == 200


def test_raw_line_breaks_inside_the_string(opened: visualglm.VisualGLM, server: Server) -> None:
    """What upstream's README makes with GNU base64: JSON forbids it, its readers get it all the same."""
    body = '{"image":"' + WRAPPED + '","text":"' + QUESTION + '","history":[]}'
    reply = httpx.post(f"{server.url}/", content=body.encode(), headers={"Content-Type": "application/json"})
    assert reply.json()["result"] == opened.ask(SAMPLES[0], QUESTION).text


def test_history_goes_on_with_its_image(opened: visualglm.VisualGLM, server: Server) -> None:
    conversation = opened.conversation(SAMPLES[0])
    first = post(server, image=ENCODED, text=QUESTION, history=[])
    assert first["result"] == conversation.ask(QUESTION).text
    second = post(server, image=ENCODED, text="一共有几个物体？", history=first["history"])
    assert second["result"] == conversation.ask("一共有几个物体？").text
    assert [tuple(turn) for turn in second["history"]] == conversation.history


def test_parameters_count(opened: visualglm.VisualGLM, server: Server) -> None:
    sampling = {"temperature": 1.2, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1, "seed": 4, "max_length": 60}
    reply = post(server, image=ENCODED, text=QUESTION, history=[], **sampling)
    assert reply["result"] == opened.ask(SAMPLES[0], QUESTION, **sampling).text
    minimum = post(server, text=QUESTION, min_length=60)
    assert minimum["result"] == opened.ask(None, QUESTION, min_length=60).text


def test_without_a_image(opened: visualglm.VisualGLM, server: Server) -> None:
    alone = opened.ask(None, "你好").text
    assert [post(server, text="你好", **more)["result"] for more in ({}, {"image": None}, {"image": ""})] == [alone] * 3


@pytest.mark.parametrize(
    "body",
    [
        {"image": ENCODED},
        {"text": QUESTION, "image": "examples/1.jpeg"},
        {"text": QUESTION, "image": ENCODED[:300]},
        {"text": QUESTION, "history": [["only a question"]]},
        {"text": QUESTION, "temperature": -1},
        {"text": "猫" * 5000},
        {"text": "\ud800"},
    ],
)
def test_mistakes_are_a_400(server: Server, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    reply = httpx.post(f"{server.url}/", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["message"]


def test_a_form_of_a_foreign_page_is_refused(server: Server) -> None:
    body = json.dumps({"text": QUESTION}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        for path in ("/", "/v1/chat/completions"):
            reply = httpx.post(f"{server.url}{path}", content=body, headers={"Content-Type": kind})
            assert reply.status_code in (400, 415), (path, kind)
