"""What default clients send beside the minimum: nulls, -1, empty strings, tools, plain strings, no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import visualglm

from ..conftest import PLAIN, SAMPLES, Server, asked, data_url

QUESTION = "What is in the picture?"
UNUSABLE = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}
NO_IMAGE = {"type": "image_url", "image_url": "data:,x"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}


def said(server: Server, body: dict[str, Any]) -> str:
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


NULLS = (
    *("stream", "stream_options", "n", "stop", "seed", "temperature", "top_p", "top_k", "repetition_penalty"),
    *("max_tokens", "max_completion_tokens", "language", "model", "tools", "tool_choice", "response_format", "user"),
    *("logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "functions", "metadata"),
)


@pytest.mark.parametrize(
    "extra",
    [
        dict.fromkeys(NULLS),
        {"stream_options": {"include_usage": None}},
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"tool_choice": "auto", "tools": []},
        {"stop": "", "max_tokens": -1, "top_k": -1},
        {"stop": ["", ""], "max_completion_tokens": -1},
        {"model": ""},
    ],
)
def test_what_asks_for_nothing_changes_nothing(
    opened: visualglm.VisualGLM, server: Server, extra: dict[str, Any]
) -> None:
    assert said(server, {**asked(QUESTION, SAMPLES[0]), **extra}) == opened.ask(SAMPLES[0], QUESTION).text


def test_no_model_is_answered_by_what_is_served(opened: visualglm.VisualGLM, server: Server) -> None:
    body = asked(QUESTION, SAMPLES[0])
    del body["model"]
    assert said(server, body) == opened.ask(SAMPLES[0], QUESTION).text


def test_top_k_of_minus_one_is_no_limit(opened: visualglm.VisualGLM, server: Server) -> None:
    hot = {"temperature": 1.5, "seed": 5}
    alone = opened.ask(SAMPLES[0], QUESTION, **hot, top_k=0).text
    assert said(server, {**asked(QUESTION, SAMPLES[0]), **hot, "top_k": -1}) == alone


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": data_url(SAMPLES[0])},
        {"type": "input_image", "image_url": data_url(SAMPLES[0]), "detail": "auto"},
        {"type": "image_url", "image_url": {"url": data_url(SAMPLES[0]), "detail": None}},
    ],
)
def test_forms_of_an_image(opened: visualglm.VisualGLM, server: Server, part: dict[str, Any]) -> None:
    content = [part, {"type": "input_text", "text": QUESTION}]
    body = {"messages": [{"role": "user", "content": content, "name": None}]}
    assert said(server, body) == opened.ask(SAMPLES[0], QUESTION).text


@pytest.mark.parametrize(
    ("before", "same"),
    [
        ([("developer", "Be brief.")], f"Be brief.\n{QUESTION}"),
        ([("user", "Count."), CALL, ("tool", "7 cats")], f"Count.\n7 cats\n{QUESTION}"),
    ],
)
def test_other_roles_are_text_of_the_question(
    opened: visualglm.VisualGLM, server: Server, before: list[Any], same: str
) -> None:
    messages = [{"role": one[0], "content": one[1]} if isinstance(one, tuple) else one for one in before]
    body = {"messages": [*messages, *asked(QUESTION, SAMPLES[0])["messages"]]}
    assert said(server, body) == opened.ask(SAMPLES[0], same).text


def test_a_leading_assistant_message(server: Server) -> None:
    messages = [{"role": "assistant", "content": "Hello!"}, *asked(QUESTION, SAMPLES[0])["messages"]]
    assert said(server, {"messages": messages})


@pytest.fixture(scope="module")
def short(serve: Callable[..., Server]) -> Server:
    return serve(dataclasses.replace(PLAIN, defaults={"max_new_tokens": 4}))


def test_the_system_message_survives_a_cut(short: Server) -> None:
    """A dialogue that is cut has as many tokens as its end with the system message before it."""
    system, turns = {"role": "system", "content": "Always answer in rhymes, please."}, []
    for number in range(400):
        turns += [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": "Answer."}]
    last = {"role": "user", "content": "The last?"}

    def tokens(messages: list[Any]) -> int:
        reply = httpx.post(f"{short.url}/v1/chat/completions", json={"messages": messages}, timeout=300).json()
        return int(reply["usage"]["prompt_tokens"])

    cut = tokens([system, *turns, last])
    step = tokens([system, *turns[-4:], last]) - tokens([system, *turns[-2:], last])
    kept = (cut - tokens([system, last])) // step
    assert kept > 9 and cut == tokens([system, *turns[-2 * kept :], last])


def test_a_system_message_that_does_not_fit_is_named(short: Server) -> None:
    messages = [{"role": "system", "content": "long " * 5000}, *asked("?")["messages"]]
    reply = httpx.post(f"{short.url}/v1/chat/completions", json={"messages": messages}, timeout=300)
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert error["message"].startswith("This model's maximum context length is")


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tools": [{}], "tool_choice": "auto"}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -2}, "max_tokens", "invalid_value"),
        ({"messages": [{"role": "user", "content": None}]}, "messages", "invalid_prompt"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "invalid_prompt"),
        ({"messages": asked("?")["messages"] + [{"role": "assistant", "content": "!"}]}, "messages", "invalid_prompt"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:,x"}]}]},
            "messages",
            "invalid_image",
        ),
        ({"model": "gpt-4o"}, "model", "model_not_found"),
        ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
        ({"response_format": UNUSABLE}, "response_format", "invalid_json_schema"),
    ],
)
def test_every_error_names_its_code_and_field(server: Server, change: dict[str, Any], param: str, code: str) -> None:
    error = httpx.post(f"{server.url}/v1/chat/completions", json={**asked("?"), **change}).json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
