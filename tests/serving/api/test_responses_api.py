"""OpenAI's Responses API with its own client: the answers are those of `ask`, plain and as events."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pydantic
import pytest

import visualglm
from visualglm.serving.api.recent_answers import RecentAnswers

from ..conftest import SAMPLES, Server, data_url

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def message(text: str, *images: Any) -> dict[str, Any]:
    parts = [{"type": "input_image", "image_url": data_url(image), "detail": "auto"} for image in images]
    return {"role": "user", "content": [*parts, {"type": "input_text", "text": text}]}


def test_plain_and_events_say_what_ask_says(opened: visualglm.VisualGLM, client: openai.OpenAI) -> None:
    alone = opened.ask(SAMPLES[0], QUESTION)
    given: Any = {"model": "visualglm-mini", "input": [message(QUESTION, SAMPLES[0])]}
    whole = client.responses.create(**given)
    assert (whole.output_text, whole.status, whole.error) == (alone.text, "completed", None)
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (alone.prompt_tokens, alone.completion_tokens)
    events = list(client.responses.create(**given, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == alone.text
    ends = ("output_text.done", "content_part.done", "output_item.done", "completed")
    assert [event.type for event in events[-4:]] == [f"response.{end}" for end in ends]
    with client.responses.stream(**given) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == alone.text


def test_text_instructions_and_a_whole_dialogue(opened: visualglm.VisualGLM, client: openai.OpenAI) -> None:
    said = client.responses.create(model="visualglm-mini", input="你好", instructions="简短回答。")
    assert said.output_text == opened.ask(None, "简短回答。\n你好").text
    conversation = opened.conversation(SAMPLES[0])
    first, second = conversation.ask(QUESTION).text, conversation.ask("How many objects?").text
    before = client.responses.create(model="visualglm-mini", input=[message(QUESTION, SAMPLES[0])])  # type: ignore[list-item]
    assert before.output_text == first
    ignored = [{"type": "reasoning", "id": "rs_1", "summary": []}, {"type": "function_call", "name": "f"}]
    turns: list[Any] = [message(QUESTION, SAMPLES[0]), *ignored, *before.output, message("How many objects?")]
    assert client.responses.create(input=turns).output_text == second
    result: list[Any] = [message("Count."), {"type": "function_call_output", "call_id": "1", "output": "7 cats"}]
    assert client.responses.create(input=result).output_text == opened.ask(None, "Count.\n7 cats").text


def test_an_answer_is_referred_to_by_its_id(opened: visualglm.VisualGLM, client: openai.OpenAI) -> None:
    conversation = opened.conversation(SAMPLES[0])
    conversation.ask(QUESTION)
    second = conversation.ask("How many objects?").text
    asked: Any = [message(QUESTION, SAMPLES[0])]
    streamed = list(client.responses.create(input=asked, stream=True))[-1]
    for response in (client.responses.create(input=asked), streamed.response):
        assert response.store is True
        turns: Any = [*asked, {"type": "item_reference", "id": response.output[0].id}, message("How many objects?")]
        assert client.responses.create(input=turns).output_text == second
    private = client.responses.create(input=asked, store=False)
    with pytest.raises(openai.BadRequestError, match="not remembered"):
        client.responses.create(input=[{"type": "item_reference", "id": private.output[0].id}, *asked])  # type: ignore[list-item]


class Scene(pydantic.BaseModel):
    many: bool
    shape: str = pydantic.Field(max_length=5)


def test_the_client_parses_a_pydantic_class(opened: visualglm.VisualGLM, client: openai.OpenAI) -> None:
    whole = client.responses.parse(input=[message(QUESTION, SAMPLES[0])], text_format=Scene)  # type: ignore[list-item]
    assert isinstance(whole.output_parsed, Scene)
    assert whole.output_text == opened.ask(SAMPLES[0], QUESTION, json_schema=Scene).text


def test_the_oldest_answers_are_forgotten() -> None:
    answers = RecentAnswers(2)
    for name in "abc":
        answers.remember(name, name.upper())
    assert [answers.recall(name) for name in "abc"] == [None, "B", "C"]


def test_a_limit_leaves_the_response_incomplete(client: openai.OpenAI) -> None:
    given: Any = {"input": [message("描述这张图片。", SAMPLES[0])], "max_output_tokens": 2, "metadata": {"a": "b"}}
    whole = client.responses.create(**given)
    assert whole.status == "incomplete" and whole.metadata == {"a": "b"}
    assert whole.incomplete_details is not None and whole.incomplete_details.reason == "max_output_tokens"
    assert list(client.responses.create(**given, stream=True))[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input.0"),
        ({"input": [{"role": "user", "content": " "}]}, "input"),
        ({"input": "猫" * 5000}, "input"),
        ({"model": "gpt-4o"}, "model"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format"),
    ],
)
def test_mistakes_name_their_field(server: Server, change: dict[str, Any], param: str) -> None:
    reply = httpx.post(f"{server.url}/v1/responses", json={"input": "?", **change})
    assert reply.status_code in (400, 404), reply.text
    assert reply.json()["error"]["param"] == param


def test_a_dialogue_is_cut_only_where_that_is_allowed(server: Server) -> None:
    turns = [{"role": "user", "content": "Question?"}, {"role": "assistant", "content": "Answer."}] * 300
    body = {"input": [*turns, {"role": "user", "content": "The last?"}], "max_output_tokens": 2}
    assert httpx.post(f"{server.url}/v1/responses", json=body).status_code == 200
    refused = httpx.post(f"{server.url}/v1/responses", json={**body, "truncation": "disabled"}).json()["error"]
    assert (refused["code"], refused["param"]) == ("context_length_exceeded", "input")


def test_an_error_after_the_beginning_is_an_event(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(server.engine.memory, "encode", fail)
    body = {"input": [message(QUESTION, SAMPLES[1])], "stream": True}
    text = httpx.post(f"{server.url}/v1/responses", json=body).text
    last = json.loads(text.strip().rpartition("data: ")[2])
    assert last["type"] == "response.failed" and last["response"]["error"]["code"] == "server_error"
