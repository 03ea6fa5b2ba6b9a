"""`POST /v1/explain`: the maps of `VisualGLM.explain`, in turns with other requests, and one sentence for a mistake."""

from __future__ import annotations

import dataclasses
import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

import visualglm
from visualglm.explanation.deletion import finish
from visualglm.explanation.explanation import AnsweredQuestion, Explanation, explain_answer
from visualglm.inference.running_batch import RunningBatch
from visualglm.preprocessing.images import open_image
from visualglm.preprocessing.prompt import Turn
from visualglm.serving.api.explain_schema import MAX_ANSWER
from visualglm.serving.app import create_app
from visualglm.serving.engine.explanation_job import ExplanationJob
from visualglm.serving.engine.job import Job
from visualglm.serving.engine.limits import EngineLimits

from ...adapters.conftest import made
from ..conftest import PLAIN, Server, asked, data_url

STAR = visualglm.packed_model() / "samples" / "star.png"
ENGLISH, CHINESE = "What is in this image?", "图里有什么？"
IMAGE = data_url(STAR)
PATIENCE = 600
"""Seconds: a busy machine is no failure."""


def explain(server: Server, **fields: Any) -> httpx.Response:
    body = {"image": IMAGE, "question": ENGLISH, **fields}
    return httpx.post(f"{server.url}/v1/explain", json=body, timeout=PATIENCE)


def expect_equal(reply: dict[str, Any], explanation: Explanation) -> None:
    """Compare with the same JSON, whose numbers are equal but for the last digits."""
    wanted = explanation.to_dict()
    assert reply["answer"] == wanted["answer"] and reply["method"] == wanted["method"]
    for one, other in zip([*reply["words"], reply["explained"]], [*wanted["words"], wanted["explained"]], strict=True):
        assert (one["text"], one["tokens"]) == (other["text"], other["tokens"])
        assert np.allclose(one["map"], other["map"], atol=1e-5)
    for name in ("attended", "area", "low", "high"):
        assert reply["deletion"][name] == pytest.approx(wanted["deletion"][name], abs=1e-3)
    assert reply["deletion"]["exceeds_chance"] == wanted["deletion"]["exceeds_chance"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"question": CHINESE, "method": "gradient", "seed": 7, "temperature": 1.5},
        {"word": "star", "max_tokens": 9, "model": "visualglm-mini"},
    ],
    ids=["plain", "Chinese", "one word"],
)
def test_the_maps_are_those_of_explain(opened: visualglm.VisualGLM, server: Server, fields: dict[str, Any]) -> None:
    for _ in range(2):  # the second time its embeddings are cached
        reply = explain(server, **fields).json()
    given = {"max_new_tokens" if name == "max_tokens" else name: value for name, value in fields.items()}
    given.pop("model", None)
    explanation = opened.explain(STAR, given.pop("question", ENGLISH), **given)
    expect_equal(reply, explanation)
    assert (reply["object"], reply["model"], reply["miniature"]) == ("explanation", "visualglm-mini", False)
    assert (reply["warning"] is None) == explanation.exceeds_chance
    assert all(len(f"{value:.10f}".rstrip("0")) <= 9 for row in reply["explained"]["map"] for value in row)


def test_an_answer_of_a_dialogue_is_explained_as_given(opened: visualglm.VisualGLM, server: Server) -> None:
    expect_equal(explain(server, answer="a red star").json(), opened.explain(STAR, ENGLISH, answer="a red star"))
    history = [(ENGLISH, "A star and a cup.")]
    turns = [Turn(*history[0], 1), Turn("What colour is the star?")]
    prompt = opened.processor.build_prompt(turns, "auto").input_ids
    answered = AnsweredQuestion(turns[1].question, "Yellow.", prompt, opened.tokenizer.encode_plain("Yellow."))
    pixels = opened.pixel_values(open_image(STAR))
    wanted = finish(explain_answer(opened.model, opened.tokenizer, answered, pixels))
    expect_equal(explain(server, history=history, question=turns[1].question, answer="Yellow.").json(), wanted)


def test_the_warning_is_in_the_questions_language(server: Server) -> None:
    """An answer that is not about the image rests on no patch."""
    for question, answer, begin in (
        (ENGLISH, "x q z", "This map explains no better"),
        ("图里有什么？", "零", "这张图并不比"),
    ):
        reply = explain(server, question=question, answer=answer).json()
        expected = None if reply["deletion"]["exceeds_chance"] else begin
        assert reply["warning"] is None if expected is None else reply["warning"].startswith(expected)
        assert reply["summary"].startswith(("Deletion curve: ", "删除曲线："))


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"image": None}, "image", "image: "),
        ({"image": 5}, "image", "image: "),
        ({"image": [IMAGE]}, "image", "image: "),
        ({"image": ""}, "image", "There is no image"),
        ({"image": str(STAR)}, "image", "An image must be a data URL"),
        ({"image": "data:image/png;base64,aGVsbG8="}, "image", "image"),
        ({"image": IMAGE[:600]}, "image", "image"),
        ({"question": None}, "question", "question: "),
        ({"question": {"text": "?"}}, "question", "question: "),
        ({"question": " "}, "question", "question"),
        ({"question": "猫" * 600}, "question", "shorten"),
        ({"question": "猫" * 5000}, "question", "too long"),
        ({"question": "y" * 600_000}, "question", "characters"),
        ({"answer": "y" * 600_000}, "question", "characters"),
        ({"answer": "cat " * (MAX_ANSWER + 1)}, "question", "shorten"),
        ({"answer": ""}, "question", "The answer is empty"),
        ({"answer": 3}, "answer", "answer: "),
        ({"history": [["a", "b", "c"]]}, "history.0", "history.0: "),
        ({"history": "a"}, "history", "history: "),
        ({"history": [["x", "y" * 600_000]]}, "question", "characters"),
        ({"word": "zebra"}, None, "The answer has no word 'zebra'. Its words are: "),
        ({"word": ""}, None, "The answer has no word ''"),
        ({"word": "(" * 101}, "word", "word: "),
        ({"word": ["star"]}, "word", "word: "),
        ({"method": "saliency"}, "method", "method: "),
        ({"max_tokens": MAX_ANSWER + 1}, "max_tokens", "max_tokens: "),
        ({"temperature": "hot"}, "temperature", "temperature: "),
        ({"thorough": True}, "thorough", "thorough: "),
        ({"model": "gpt-4o"}, "model", "There is no model"),
    ],
)
def test_mistakes_are_one_sentence(server: Server, change: dict[str, Any], param: str | None, message: str) -> None:
    reply = explain(server, **change)
    assert reply.status_code in (400, 404), reply.text
    error = reply.json()["error"]
    assert error["param"] == param and message in error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'{"image": 1', b"[" * 100_000, b'{"image":"' + b"%" * 3_000_000]
)
def test_bodies_that_are_no_request(server: Server, body: bytes) -> None:
    reply = httpx.post(f"{server.url}/v1/explain", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400 and set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_key_is_required(serve: Callable[..., Server]) -> None:
    locked = serve(dataclasses.replace(PLAIN, keys=("right",)))
    assert explain(locked).status_code == 401
    body = {"image": IMAGE, "question": ENGLISH, "answer": "star"}
    headers = {"Authorization": "Bearer right"}
    assert httpx.post(f"{locked.url}/v1/explain", json=body, headers=headers, timeout=PATIENCE).status_code == 200


def test_the_adapter_of_the_answer_is_explained(tmp_path: Path) -> None:
    base = str(visualglm.packed_model())
    folder = made(tmp_path / "lora", base, "lora", size=0.05)
    model = visualglm.load(base, device="cpu")
    model.add_adapter(folder, "tuned")
    body = {"image": IMAGE, "question": ENGLISH, "answer": "a star"}
    with TestClient(create_app(model, PLAIN)) as client:
        found = {name: client.post("/v1/explain", json={**body, "model": name}).json() for name in ("tuned", "base")}
        unnamed = client.post("/v1/explain", json=body).json()
    expect_equal(
        found["tuned"], visualglm.load(base, device="cpu", adapter=folder).explain(STAR, ENGLISH, answer="a star")
    )
    expect_equal(found["base"], visualglm.load(base, device="cpu").explain(STAR, ENGLISH, answer="a star"))
    assert unnamed == found["tuned"] != found["base"]


@dataclasses.dataclass
class Passes:
    """Notes what the engine's thread does; it waits before the first pass of an explanation until `go_on` is set."""

    events: list[str]
    go_on: threading.Event
    begun: threading.Event


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    noted = Passes([], threading.Event(), threading.Event())
    step, advance = RunningBatch.step, ExplanationJob.advance

    def noted_step(batch: Any) -> Any:
        noted.events.append("token")
        return step(batch)

    def noted_advance(job: ExplanationJob) -> None:
        noted.begun.set()
        noted.go_on.wait(PATIENCE)
        noted.events.append("pass")
        advance(job)

    monkeypatch.setattr(RunningBatch, "step", noted_step)
    monkeypatch.setattr(ExplanationJob, "advance", noted_advance)
    yield noted
    noted.go_on.set()


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    return thread, found


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_others_get_a_token_between_two_passes(server: Server, passes: Passes) -> None:
    first, explained = in_thread(lambda: explain(server, answer="a star"))
    assert passes.begun.wait(PATIENCE)
    body = asked("描述这张图片。", STAR)
    other, said = in_thread(lambda: httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=PATIENCE))
    wait_until(lambda: server.engine.queued == 1)
    passes.go_on.set()
    first.join()
    other.join()
    assert explained[0].status_code == said[0].status_code == 200
    begin, end = passes.events.index("token"), len(passes.events) - passes.events[::-1].index("pass")
    assert passes.events.count("pass") == 3 and "token" in passes.events[:end]
    assert all(pair != ("pass", "pass") for pair in itertools.pairwise(passes.events[begin:end]))


def test_who_leaves_ends_the_explanation(server: Server, passes: Passes) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    body = json.dumps({"image": IMAGE, "question": ENGLISH, "answer": "x"})
    connection.request("POST", "/v1/explain", body, {"Content-Type": "application/json"})
    assert passes.begun.wait(PATIENCE)
    connection.close()
    explaining = server.engine._explaining
    wait_until(lambda: all(job.ended for job in explaining))
    passes.go_on.set()
    wait_until(lambda: server.engine.running == 0)
    assert passes.events.count("pass") <= 1
    assert explain(server, answer="star").status_code == 200


def test_a_full_queue_and_a_late_explanation_are_busy(
    serve: Callable[..., Server], passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = serve(dataclasses.replace(PLAIN, limits=EngineLimits(max_queue=1, max_batch=1, decode_seconds=PATIENCE)))
    threads = [in_thread(lambda: explain(small, answer="star"))]
    assert passes.begun.wait(PATIENCE)
    threads.append(in_thread(lambda: explain(small, answer="star")))
    wait_until(lambda: small.engine.queued == 1)
    refused = explain(small, answer="star")
    assert refused.status_code == 503 and refused.headers["Retry-After"] and "wait already" in refused.text
    monkeypatch.setattr(Job, "late", True)
    passes.go_on.set()
    for thread, replies in threads:
        thread.join()
        assert replies[0].status_code == 503 and "time was up" in replies[0].text


def test_an_unforeseen_error_reveals_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("visualglm.explanation.explanation.attribute", fail)
    reply = explain(server, answer="star")
    assert reply.status_code == 500 and "secret" not in reply.text
    monkeypatch.undo()
    assert explain(server, answer="star").status_code == 200
