"""Anthropic's Messages API; its own client speaks to it in tests/clients."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

import visualglm

from ..conftest import SAMPLES, Server

QUESTION = "What is in the picture?"


def message(text: str, *images: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for image in images:
        data = base64.b64encode(image.read_bytes()).decode()
        parts.append({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def post(server: Server, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/messages", json={"max_tokens": 100, **body}, timeout=300)


def test_plain_and_events_say_what_ask_says(opened: visualglm.VisualGLM, server: Server) -> None:
    alone = opened.ask(SAMPLES[0], QUESTION)
    whole = post(server, model="visualglm-mini", messages=[message(QUESTION, SAMPLES[0])]).json()
    assert whole["content"] == [{"type": "text", "text": alone.text}]
    assert (whole["stop_reason"], whole["role"]) == ("end_turn", "assistant")
    assert whole["usage"] == {"input_tokens": alone.prompt_tokens, "output_tokens": alone.completion_tokens}
    text = post(server, messages=[message(QUESTION, SAMPLES[0])], stream=True).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert [line[7:] for line in text.splitlines() if line.startswith("event: ")] == [one["type"] for one in events]
    assert "".join(one["delta"]["text"] for one in events if one["type"] == "content_block_delta") == alone.text
    assert [one["type"] for one in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == "end_turn"


def test_system_dialogue_tools_and_limits(opened: visualglm.VisualGLM, server: Server) -> None:
    for system in ("Be brief.", [{"type": "text", "text": "Be brief."}]):
        said = post(server, system=system, messages=[{"role": "user", "content": "Hello?"}]).json()
        assert said["content"][0]["text"] == opened.ask(None, "Be brief.\nHello?").text
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "7 cats"}]}
    said = post(server, messages=[message("Count."), call, result]).json()
    assert said["content"][0]["text"] == opened.ask(None, "Count.\n7 cats").text
    short = post(server, messages=[message("描述这张图片。", SAMPLES[0])], max_tokens=2).json()
    assert short["stop_reason"] == "max_tokens"
    word = opened.ask(SAMPLES[0], QUESTION).text[3:6]
    stopped = post(server, messages=[message(QUESTION, SAMPLES[0])], stop_sequences=[word]).json()
    assert word not in stopped["content"][0]["text"]


@pytest.mark.parametrize(
    ("change", "kind", "param"),
    [
        ({"messages": [message("猫" * 5000)]}, "invalid_request_error", "messages"),
        ({"tools": [{"name": "f"}]}, "invalid_request_error", "tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
            "invalid_request_error",
            "messages.0.content.0",
        ),
        ({"model": "claude"}, "not_found_error", "model"),
    ],
)
def test_errors_have_anthropics_shape(server: Server, change: dict[str, Any], kind: str, param: str) -> None:
    reply = post(server, **{"messages": [message("?")], **change})
    assert reply.status_code in (400, 404)
    assert reply.json()["type"] == "error"
    assert (reply.json()["error"]["type"], reply.json()["error"]["param"]) == (kind, param)
