"""Fixtures for tests with vLLM: dialogues, and the answers of transformers. Skipped without vLLM."""

from __future__ import annotations

import os

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine in this process: one start instead of three
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # threads as OMP_NUM_THREADS says, on any core
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import visualglm
from visualglm.checkpoints.quantize import plan
from visualglm.preprocessing.chat_messages import messages_to_turns
from visualglm.preprocessing.prompt import build_prompt
from visualglm.preprocessing.tokenizer import process_response

FOLDER = Path(visualglm.packed_model())
SAMPLES = sorted((FOLDER / "samples").glob("*.png"))
NEW_TOKENS = 32
FOUR = "['attention.query_key_value','attention.dense','mlp.dense_h_to_4h','mlp.dense_4h_to_h']"
"""`lora.targets`: all linear layers of a block."""
TOLERANCE = 1e-3
"""Of a log probability in float32: sums in another order. A causal mask would be off by whole units."""


def data_url(image: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"


def user(text: str, *images: Path) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


DIALOGUES: dict[str, list[dict[str, Any]]] = {
    "no picture": [user("What is a moon?")],
    "one, Chinese": [user("这张图片里有什么？", SAMPLES[0])],
    "one, English, special pieces": [user("What is <sop> in the [gMASK] picture?", SAMPLES[1])],
    "two": [user("这两张图片有什么不同？", SAMPLES[0], SAMPLES[1])],
    "three": [user("How many objects are there?", SAMPLES[2], SAMPLES[0], SAMPLES[1])],
    "many turns": [
        user("描述这张图片。", SAMPLES[2]),
        assistant("图中有一个月亮。"),
        user("背景是什么？"),
        assistant("背景是草地。"),
        user("And what is in this one?", SAMPLES[3]),
    ],
    "long, no picture": [user("请详细说明。 " * 30)],
}


@dataclass(frozen=True)
class Answer:
    """An answer of transformers: the prompt's ids, the new ids, the text, and the log probability of each new id."""

    prompt: list[int]
    ids: list[int]
    text: str
    logprobs: list[float]


class Oracle:
    """Answers dialogues with our transformers model, one by one, greedily, in float32."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.opened = visualglm.load(folder, device="cpu", dtype="float32")

    def answer(self, messages: list[dict[str, Any]], new_tokens: int = NEW_TOKENS) -> Answer:
        model, tokenizer = self.opened.model, self.opened.tokenizer
        turns, sources = messages_to_turns(messages)
        placeholders = {"image_token_id": model.config.image_token_id, "image_length": model.config.image_length}
        prompt = build_prompt(tokenizer, turns, language="auto", **placeholders).input_ids
        pixels = self.opened.processor(images=sources, return_tensors="pt")["pixel_values"] if sources else None
        embeds = model.encode_images(pixels) if pixels is not None else None
        whole = model.generate(torch.tensor([prompt]), image_embeds=embeds, do_sample=False, max_new_tokens=new_tokens)
        ids = whole[0, len(prompt) :].tolist()
        logits = model(torch.tensor([prompt + ids]), image_embeds=embeds).logits[0, len(prompt) - 1 : -1]
        logprobs = logits.float().log_softmax(-1)[range(len(ids)), ids].tolist()
        said = ids[:-1] if ids[-1] == model.config.eos_token_id else ids
        return Answer(prompt, ids, process_response(tokenizer.decode(said)), logprobs)


def check(output: Any, answer: Answer) -> None:
    """Check that vLLM's output, with log probabilities, equals the answer of transformers."""
    said = output.outputs[0]
    assert output.prompt_token_ids == answer.prompt
    assert list(said.token_ids) == answer.ids
    found = [step[index].logprob for step, index in zip(said.logprobs, said.token_ids, strict=True)]
    assert max(abs(a - b) for a, b in zip(found, answer.logprobs, strict=True)) < TOLERANCE


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    with torch.inference_mode():
        return Oracle()


@pytest.fixture(scope="session")
def expected(oracle: Oracle) -> dict[str, Answer]:
    """Return the answers of transformers to DIALOGUES."""
    with torch.inference_mode():
        return {name: oracle.answer(messages) for name, messages in DIALOGUES.items()}


@pytest.fixture
def quantized_folder(tmp_path: Path) -> Path:
    """Return the configuration of a checkpoint with a quantized vocabulary; it has no weights."""
    raw = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    quantized = {**raw, "quantization_config": plan(4, vocabulary=8).to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(quantized), encoding="utf-8")
    return tmp_path
