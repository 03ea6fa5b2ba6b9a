"""Several adapters on one server: each request is answered by the one it names, exactly as by that one alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

import visualglm
from visualglm.adapters.files import base_of
from visualglm.errors import UsageError
from visualglm.finetuning.config import read_finetuning
from visualglm.finetuning.trainable_model import prepare_for_training
from visualglm.inference.running_batch import RunningBatch
from visualglm.preprocessing.prompt import Turn
from visualglm.serving.app import create_app
from visualglm.serving.engine.engine import Engine
from visualglm.serving.engine.limits import EngineLimits
from visualglm.serving.metrics import Metrics
from visualglm.serving.model_ids import parse_adapter_flags

from ..conftest import PLAIN, SAMPLES, asked

KINDS = {
    "prefix": ("ptuning", "ptuning.tokens=4"),  # first, though its kind is not LoRA's
    "words": ("lora",),
    "images": ("lora", "parts.language='frozen'", "parts.projection='full'", "parts.qformer='lora'"),
}
QUESTIONS = ["What is in the picture?", "这是什么？"]
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 10}
Said = dict[tuple[str | None, str, int], str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an adapter of each kind with numbers that change what is said."""
    torch.manual_seed(1)
    root, base = tmp_path_factory.mktemp("adapters"), base_of(visualglm.packed_model())
    for name, (method, *changes) in KINDS.items():
        recipe = read_finetuning(None, tuple(changes), data="-", output="-", method=method)
        ready = prepare_for_training(visualglm.load(device="cpu").model, recipe, base)
        for value in ready.parameters.values():
            value.data += torch.randn_like(value) * (3.0 if method == "ptuning" else 0.1)
        ready.save_adapter(root / name, 1)
    return {name: root / name for name in KINDS}


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> Said:
    """Return what each adapter says, on a model that has no other."""
    said: Said = {}
    for name in (None, *folders):
        model = visualglm.load(device="cpu", adapter=None if name is None else folders[name])
        for question in QUESTIONS:
            for number, sample in enumerate(SAMPLES[:2]):
                said[name, question, number] = model.ask(sample, question, **GREEDY).text
    for question in QUESTIONS:
        assert len({said[name, question, 0] for name in (None, *folders)}) == 4, "nothing would be seen of a mix-up"
    return said


@pytest.fixture(scope="module")
def several(folders: dict[str, Path]) -> visualglm.VisualGLM:
    model = visualglm.load(device="cpu")
    for name, folder in folders.items():
        model.add_adapter(folder, name)
    return model


def test_adapters_never_share_a_batch_and_answer_as_alone(
    several: visualglm.VisualGLM, alone: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[str | None]] = []
    real = RunningBatch.step

    def noted(batch: Any) -> Any:
        batches.append([row.adapter for row in batch.rows])
        return real(batch)

    monkeypatch.setattr(RunningBatch, "step", noted)
    engine = Engine(several, EngineLimits(max_batch=3), Metrics())
    wanted = sorted(alone, key=lambda case: (case[1:], str(case[0])))  # neighbours in the queue want unlike adapters

    async def work() -> list[str]:
        jobs = []
        for name, question, number in wanted:
            turns, contents = [Turn(question, image_count=1)], [SAMPLES[number].read_bytes()]
            jobs.append(await engine.ask(turns, contents, adapter=name, **GREEDY))
        engine.start()  # all wait together
        for job in jobs:
            _ = [piece async for piece in job.pieces()]
        return [job.text for job in jobs]

    assert asyncio.run(work()) == [alone[case] for case in wanted]
    engine.close()
    assert all(len(set(batch)) == 1 for batch in batches)
    assert max(map(len, batches)) == 3
    order = [batch[0] for batch, before in zip(batches, [[], *batches], strict=False) if batch[:1] != before[:1]]
    assert order[:2] == [wanted[0][0], wanted[1][0]]


def test_a_request_names_what_answers_it(several: visualglm.VisualGLM, alone: Said) -> None:
    question = QUESTIONS[0]
    with TestClient(create_app(several, PLAIN), base_url="http://127.0.0.1") as client:
        listed = [card["id"] for card in client.get("/v1/models").json()["data"]]
        assert listed == ["base", *KINDS]
        for asked_for in (*listed, "visualglm-mini"):
            body = asked(question, SAMPLES[0], temperature=0, max_tokens=10) | {"model": asked_for}
            reply = client.post("/v1/chat/completions", json=body).json()
            name = asked_for if asked_for in KINDS else None
            assert reply["choices"][0]["message"]["content"] == alone[name, question, 0] and reply["model"] == asked_for
        unknown = client.post("/v1/chat/completions", json=asked(question) | {"model": "other"})
        assert unknown.status_code == 404 and "'prefix'" in unknown.json()["error"]["message"]
        nameless = client.post("/", json={"text": question, "temperature": 0, "max_length": 40}).json()["result"]
        assert nameless == several.conversation(adapter="prefix").ask(question, do_sample=False, max_length=40).text


def test_the_models_say_which_is_the_default(several: visualglm.VisualGLM) -> None:
    with TestClient(create_app(several, PLAIN), base_url="http://127.0.0.1") as client:
        cards = client.get("/v1/models").json()["data"]
        assert [card["id"] for card in cards if card["default"]] == [next(iter(KINDS))]
        for name in ("visualglm-mini", "base", *KINDS):
            card = client.get(f"/v1/models/{name}").json()
            assert card["id"] == name and card["description"].startswith("An adapter") == (name in KINDS)


def test_names_of_adapters() -> None:
    assert parse_adapter_flags(["a=x/y", "x/z/", "b=c=d"], "mini") == {"a": "x/y", "z": "x/z/", "b": "c=d"}
    for wrong in (["a=x", "a=y"], ["base=x"], ["mini=x"], ["=x"], ["a="], ["x/a", "a=y"]):
        with pytest.raises(UsageError, match="a name of its own"):
            parse_adapter_flags(wrong, "mini")
