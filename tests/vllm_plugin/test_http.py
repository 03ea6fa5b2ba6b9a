"""`visualglm serve --engine vllm`: vLLM's server in its own process, tested with OpenAI's client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..adapters.conftest import made
from .conftest import DIALOGUES, FOLDER, NEW_TOKENS, Answer, Oracle, user

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
pytest.importorskip("peft", reason="visualglm[train] brings it; make test-vllm installs it")
import httpx
import torch
from openai import APIError, APIStatusError, BadRequestError, InternalServerError, OpenAI

from visualglm.network.sampling import NO_ANSWER


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("adapters") / "noise", str(FOLDER), "lora", size=0.05)


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("adapters") / "overflowing", str(FOLDER), "lora", size=1e30)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, adapter: Path, overflowing: Path) -> Iterator[OpenAI]:
    """Yield a client of a server with the packed model and two adapters."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    command = [sys.executable, "-m", "visualglm", "serve", "--engine", "vllm", "--dtype", "float32"]
    command += ["--adapter", f"noise={adapter}", "--adapter", f"overflowing={overflowing}"]
    with log.open("w") as out:
        server = subprocess.Popen([*command, "--port", str(port)], stdout=out, stderr=out, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=600, max_retries=0)
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Poll until the server is healthy."""
    while server.poll() is None:
        try:
            if httpx.get(url, timeout=60).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise AssertionError(log.read_text()[-4000:])


def test_greedy_by_default_and_equal_to_transformers(client: OpenAI, expected: dict[str, Answer]) -> None:
    for name in ("one, Chinese", "many turns"):
        reply = client.chat.completions.create(model="visualglm-mini", messages=DIALOGUES[name], max_tokens=NEW_TOKENS)
        assert reply.choices[0].message.content == expected[name].text
        assert reply.usage is not None and reply.usage.prompt_tokens == len(expected[name].prompt)


def test_a_request_chooses_an_adapter_by_name(client: OpenAI, adapter: Path, expected: dict[str, Answer]) -> None:
    oracle = Oracle()
    oracle.opened.add_adapter(adapter)
    with torch.inference_mode():
        answers = {name: oracle.answer(DIALOGUES[name]).text for name in ("one, Chinese", "many turns")}
    for name, answer in answers.items():
        reply = client.chat.completions.create(model="noise", messages=DIALOGUES[name], max_tokens=NEW_TOKENS)
        assert reply.choices[0].message.content == answer
    assert answers != {name: expected[name].text for name in answers}
    assert {model.id for model in client.models.list()} == {"visualglm-mini", "noise", "overflowing"}


def test_streamed_pieces_are_the_answer(client: OpenAI, expected: dict[str, Answer]) -> None:
    with client.chat.completions.create(
        model="visualglm-mini", messages=DIALOGUES["one, Chinese"], max_tokens=NEW_TOKENS, stream=True
    ) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == expected["one, Chinese"].text


def test_mistakes_are_400(client: OpenAI) -> None:
    url = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}]}
    for messages in ([url], [user("hi"), {"role": "assistant", "content": "hello"}]):
        with pytest.raises(BadRequestError):
            client.chat.completions.create(model="visualglm-mini", messages=messages, max_tokens=4)
    with pytest.raises(APIStatusError):
        client.completions.create(model="visualglm-mini", prompt=[5, 6, 7], max_tokens=4)


@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_finite_are_one_sentence(
    client: OpenAI, expected: dict[str, Answer], temperature: float
) -> None:
    messages, name = DIALOGUES["one, Chinese"], "overflowing"
    with pytest.raises(InternalServerError) as failed:
        client.chat.completions.create(model=name, messages=messages, temperature=temperature)
    assert failed.value.body["message"] == NO_ANSWER  # type: ignore[index]
    with pytest.raises(APIError) as broken:
        stream = client.chat.completions.create(model=name, messages=messages, temperature=temperature, stream=True)
        list(stream)
    assert NO_ANSWER in str(broken.value)
    with pytest.raises(InternalServerError, match="NaN or infinity"):
        client.responses.create(model=name, input="What is a moon?", temperature=temperature)
    reply = client.chat.completions.create(model="visualglm-mini", messages=messages, max_tokens=NEW_TOKENS)
    assert reply.choices[0].message.content == expected["one, Chinese"].text


def test_the_web_page_is_in_front(client: OpenAI) -> None:
    root = str(client.base_url).removesuffix("v1/")
    assert [httpx.get(f"{root}{path}", timeout=60).status_code for path in ("", "web/main.js", "web/x")] == [
        200,
        200,
        404,
    ]
    assert "default-src 'none'" in httpx.get(root, timeout=60).headers["content-security-policy"]
    assert httpx.get(root, headers={"Origin": "http://pictures.example"}, timeout=60).status_code == 403


def test_a_foreign_name_is_not_answered(client: OpenAI) -> None:
    reply = httpx.get(f"{client.base_url}models", headers={"Host": "pictures.example"}, timeout=60)
    assert reply.status_code == 400
    assert (
        "access-control-allow-origin"
        not in httpx.get(f"{client.base_url}models", headers={"Origin": "http://pictures.example"}, timeout=60).headers
    )
