"""A seed gives each answer a generator of its own: alone, in threads, in batches, through every interface."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import visualglm
from visualglm.errors import UsageError
from visualglm.inference.generation_settings import generation_settings

SAMPLE = visualglm.packed_model() / "samples" / "moon.png"
QUESTION = "描述这张图片。"
SAMPLED: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 12}
SEED = 3


@pytest.fixture(scope="module")
def expected(opened: visualglm.VisualGLM) -> str:
    """Return what torch's global generator draws after this seed."""
    torch.manual_seed(SEED)
    return opened.ask(SAMPLE, QUESTION, **SAMPLED).text


def test_three_threads_draw_as_one(opened: visualglm.VisualGLM, expected: str) -> None:
    def ask(seed: int) -> str:
        return opened.ask(SAMPLE, QUESTION, seed=seed, **SAMPLED).text

    other = ask(SEED + 1)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, (SEED, SEED, SEED + 1, SEED)))
    assert answers == [expected, expected, other, expected]
    assert other != expected


def test_every_interface_draws_the_same(opened: visualglm.VisualGLM, expected: str) -> None:
    ways: dict[str, Callable[..., str]] = {
        "stream": lambda **how: "".join(opened.conversation(SAMPLE).stream(QUESTION, **how)),
        "caption": lambda **how: opened.caption([SAMPLE, SAMPLE], QUESTION, **how)[1].text,
        "model.chat": lambda **how: opened.model.chat(opened.tokenizer, str(SAMPLE), QUESTION, **how)[0],
    }
    for name, way in ways.items():
        assert way(seed=SEED, **SAMPLED) == expected, name


def test_the_command_line_draws_the_same(program: Any, expected: str, opened: visualglm.VisualGLM) -> None:
    flags = ["--temperature", "2.0", "--top-k", "0", "--top-p", "1.0", "--max-new-tokens", "12", "--device", "cpu"]
    done = program("ask", str(SAMPLE), QUESTION, "--seed", str(SEED), *flags)
    assert done.stdout == expected + "\n", done.stderr


def test_a_static_cache_draws_the_same(expected: str) -> None:
    """Its answers are made in another thread."""
    opened = visualglm.load(device="cpu")
    opened.model.compiles_steps = True
    assert opened.ask(SAMPLE, QUESTION, seed=SEED, **SAMPLED).text == expected


def test_the_callers_own_processors_come_before_the_draw(opened: visualglm.VisualGLM) -> None:
    def only(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).index_fill_(1, torch.tensor([20]), 0.0)

    conversation = opened.conversation(SAMPLE)
    conversation.ask(QUESTION, seed=SEED, **{**SAMPLED, "max_new_tokens": 2, "logits_processor": [only]})
    assert conversation.answer is not None
    assert conversation.answer.text == opened.tokenizer.decode([20, 20])


def test_settings_seed_nothing(opened: visualglm.VisualGLM) -> None:
    before = torch.get_rng_state()
    settings = generation_settings(opened.model, seed=SEED, **SAMPLED)
    assert torch.equal(torch.get_rng_state(), before)
    first, second = (settings.arguments(5)["logits_processor"] for _ in range(2))
    assert first[-1] is not second[-1], "each answer has a generator of its own"
    assert generation_settings(opened.model, seed=np.int64(7)).seed == 7


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.5, "3"])
def test_an_invalid_seed_is_refused(opened: visualglm.VisualGLM, seed: Any) -> None:
    with pytest.raises(UsageError, match=r"^seed is .*\. Give a whole number from"):
        opened.ask(SAMPLE, QUESTION, seed=seed)


def test_sampled_beams_take_no_seed(opened: visualglm.VisualGLM) -> None:
    with pytest.raises(UsageError, match="Leave out seed"):
        opened.ask(SAMPLE, QUESTION, seed=1, num_beams=2, **SAMPLED)
    beams = {"num_beams": 2, "max_new_tokens": 3, "do_sample": False}
    assert opened.ask(SAMPLE, QUESTION, seed=1, **beams).text == opened.ask(SAMPLE, QUESTION, **beams).text


def test_only_training_seeds_global_generators() -> None:
    root = Path(visualglm.__file__).parent
    seeding = {
        file.relative_to(root).parts[0]
        for file in root.rglob("*.py")
        if re.search(r"^\s*[\w.]*(manual_seed|set_seed)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert seeding <= {"finetuning", "pretraining"}
