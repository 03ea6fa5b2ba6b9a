"""JSON answers, several choices and log probabilities over HTTP, by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pydantic
import pytest

import visualglm
from visualglm.inference.generation_settings import generation_settings
from visualglm.preprocessing.token_bytes import token_bytes
from visualglm.serving.api.chat_reply import ChatReply
from visualglm.serving.app import ServerSettings
from visualglm.serving.engine.job import Job
from visualglm.serving.engine.limits import EngineLimits

from ..conftest import SAMPLES, Server, asked

QUESTION = "What is in the picture?"


class Scene(pydantic.BaseModel):
    many: bool
    shape: str = pydantic.Field(max_length=5)


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def test_the_client_parses_a_pydantic_class(opened: visualglm.VisualGLM, client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(**asked(QUESTION, SAMPLES[0]), response_format=Scene).choices[0].message
    assert isinstance(parsed.parsed, Scene)
    assert parsed.content == opened.ask(SAMPLES[0], QUESTION, json_schema=Scene).text


def test_json_objects_plain_and_streaming(client: openai.OpenAI) -> None:
    request = asked(QUESTION, SAMPLES[0], response_format={"type": "json_object"}, max_tokens=200)
    whole = client.chat.completions.create(**request).choices[0]
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content
    assert whole.finish_reason == "length" or isinstance(json.loads(whole.message.content or ""), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_choices_are_the_answers_of_following_seeds(
    opened: visualglm.VisualGLM, client: openai.OpenAI, stream: bool
) -> None:
    request = asked(QUESTION, SAMPLES[0], n=3, seed=5, temperature=1.6)
    texts, reasons = ["", "", ""], ["", "", ""]
    if stream:
        *chunks, last = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
        for chunk in chunks:
            (choice,) = chunk.choices
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] += choice.finish_reason or ""
        usage = last.usage
    else:
        whole = client.chat.completions.create(**request)
        texts = [choice.message.content or "" for choice in whole.choices]
        reasons = [choice.finish_reason for choice in whole.choices]
        assert [choice.index for choice in whole.choices] == [0, 1, 2]
        usage = whole.usage
    alone = [opened.ask(SAMPLES[0], QUESTION, seed=seed, temperature=1.6) for seed in (5, 6, 7)]
    assert texts == [answer.text for answer in alone] and len(set(texts)) > 1
    assert reasons == [answer.finish_reason for answer in alone]
    assert usage is not None and usage.prompt_tokens == alone[0].prompt_tokens
    assert usage.completion_tokens == sum(answer.completion_tokens for answer in alone)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_those_of_the_model(
    opened: visualglm.VisualGLM, client: openai.OpenAI, stream: bool
) -> None:
    request = asked(QUESTION, SAMPLES[0], logprobs=True, top_logprobs=3, seed=2, temperature=1.3, n=2)
    if stream:
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**request, stream=True)]
        parts = [chunk.logprobs for chunk in chunks if chunk.index == 0 and chunk.logprobs]
        tokens = [token for part in parts for token in part.content or []]
    else:
        logprobs = client.chat.completions.create(**request).choices[0].logprobs
        assert logprobs is not None
        tokens = logprobs.content or []
    row = opened.row(opened.encode(SAMPLES[0]), QUESTION, seed=2, temperature=1.3)
    visualglm.inference.batch_generation.generate_batch(opened.model, [row])
    table = token_bytes(opened.tokenizer)
    said = [index for index in row.ids if index not in row.eos]
    assert [bytes(token.bytes or []) for token in tokens] == [table[index] for index in said]
    expected = wanted(opened, row, said)
    for token, (score, likeliest) in zip(tokens, expected, strict=True):
        assert math.isclose(token.logprob, score, abs_tol=1e-4)
        assert [other.logprob for other in token.top_logprobs] == pytest.approx(likeliest, abs=1e-4)


def wanted(opened: visualglm.VisualGLM, row: Any, said: list[int]) -> list[tuple[float, list[float]]]:
    """Compute the log probabilities in one pass over the whole answer."""
    import torch

    ids = torch.tensor([row.input_ids + said])
    with torch.no_grad():
        logits = opened.model(input_ids=ids, image_embeds=row.image_embeds).logits[0, len(row.input_ids) - 1 : -1]
    scores = logits.log_softmax(-1)
    return [(float(scores[i, index]), scores[i].topk(3).values.tolist()) for i, index in enumerate(said)]


def test_log_probabilities_alone_have_no_alternatives(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**asked(QUESTION, SAMPLES[0], logprobs=True, max_tokens=3)).choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == 3 and all(token.top_logprobs == [] for token in choice.logprobs.content)
    plain = client.chat.completions.create(**asked(QUESTION, SAMPLES[0], logprobs=False, max_tokens=3)).choices[0]
    assert plain.logprobs is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n": 0}, "n:"),
        ({"n": 9}, "n:"),
        ({"top_logprobs": 3}, "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "no schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "no schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}}, '["not"]'),
    ],
)
def test_mistakes_are_named(server: Server, change: dict[str, Any], says: str) -> None:
    reply = httpx.post(f"{server.url}/v1/chat/completions", json={**asked("?"), **change})
    assert reply.status_code == 400 and says in reply.json()["error"]["message"]


def test_choices_that_do_not_fit_into_the_queue_are_refused(serve: Callable[[ServerSettings], Server]) -> None:
    server = serve(ServerSettings(with_page=False, limits=EngineLimits(max_queue=2, max_batch=1)))
    request = asked(QUESTION, SAMPLES[0], n=8)
    assert httpx.post(f"{server.url}/v1/chat/completions", json=request, timeout=60).status_code == 503
    assert httpx.post(f"{server.url}/v1/chat/completions", json=asked("?"), timeout=60).status_code == 200


def test_a_stream_that_ends_early_leaves_no_reader(opened: visualglm.VisualGLM) -> None:
    async def work() -> None:
        settings = generation_settings(opened.model)
        jobs = [Job(opened.tokenizer, [5], [], settings, 60.0) for _ in range(2)]
        reply = ChatReply(jobs, "visualglm-mini", opened.tokenizer)
        chunks = reply.chunks(False)
        jobs[1].accept(opened.tokenizer.encode_plain("a cat")[-1])
        jobs[1].finish("stop")
        for _ in range(3):
            await anext(chunks)
        assert len(asyncio.all_tasks()) > 1
        reply.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [job.finish_reason for job in jobs] == ["cancelled", "stop"]

    asyncio.run(work())
