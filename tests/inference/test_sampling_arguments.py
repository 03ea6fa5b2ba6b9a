"""Sampling arguments mean the same in every interface; unknown ones are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import visualglm
from visualglm.compat import sat_chat
from visualglm.errors import AnswerError, UsageError
from visualglm.inference.sampling_arguments import NAMES, SAMPLING_SWITCHES, normalize_sampling, split_stop_strings

SAMPLE = visualglm.packed_model() / "samples" / "moon.png"
QUESTION = "What is in the picture?"
HOT: dict[str, Any] = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 6}


def test_a_temperature_samples_without_do_sample(opened: visualglm.VisualGLM) -> None:
    ways: dict[str, Callable[..., str]] = {
        "ask": lambda **how: opened.ask(SAMPLE, QUESTION, **how).text,
        "caption": lambda **how: opened.caption([SAMPLE], QUESTION, **how)[0].text,
        "model.chat": lambda **how: opened.model.chat(opened.tokenizer, str(SAMPLE), QUESTION, language="auto", **how)[
            0
        ],
    }
    for name, way in ways.items():
        answers = [way(seed=seed, **HOT) for seed in range(4)]
        assert len(set(answers)) > 1, name
        assert answers[0] == way(seed=0, do_sample=True, **HOT), name
        assert way(seed=0, do_sample=False, max_new_tokens=6) == way(temperature=0, max_new_tokens=6), name


@pytest.mark.parametrize("switch", SAMPLING_SWITCHES)
def test_every_switch_samples_unless_it_is_greedy(switch: str) -> None:
    assert normalize_sampling({switch: 0.5})["do_sample"] is True
    assert normalize_sampling({switch: 0.5, "do_sample": False})["do_sample"] is False
    assert "do_sample" not in normalize_sampling({switch: None})
    with pytest.raises(UsageError, match=f"The preset greedy contradicts {switch}"):
        normalize_sampling({switch: 0.5, "preset": "greedy"})


@pytest.mark.parametrize("greedy", [{"temperature": 0}, {"temperature": 1e-4}, {"top_p": 0}, {"top_k": 1}])
def test_the_narrowest_settings_are_greedy(opened: visualglm.VisualGLM, greedy: dict[str, Any]) -> None:
    expected = opened.ask(SAMPLE, QUESTION, do_sample=False)
    assert opened.ask(SAMPLE, QUESTION, seed=5, **greedy) == expected


def test_normalizing_twice_changes_nothing() -> None:
    for given in ({"temperature": 1.0}, {"temperature": 0}, {"do_sample": False, "top_p": 0.3}, {"max_new_tokens": 3}):
        assert normalize_sampling(normalize_sampling(given)) == normalize_sampling(given)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("max_tokens", "max_new_tokens"),
        ("temprature", "temperature"),
        ("stop_strings", "stop"),
        ("topp", "top_p"),
        ("repetition_penality", "repetition_penalty"),
    ],
)
def test_an_unknown_name_gets_the_nearest(opened: visualglm.VisualGLM, name: str, nearest: str) -> None:
    for call in (
        lambda **how: opened.ask(SAMPLE, QUESTION, **how),
        lambda **how: opened.caption([SAMPLE], QUESTION, **how),
        lambda **how: opened.model.chat(opened.tokenizer, str(SAMPLE), QUESTION, **how),
    ):
        with pytest.raises(UsageError, match=rf"no sampling argument '{name}'\. Did you mean {nearest}"):
            call(**{name: 3})


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": "5"},
        {"max_length": 2.5},
        {"num_return_sequences": "2"},
        {"top_h": 5},
        {"invalid_slices": "a"},
        {"invalid_slices": [(1, 2)]},
        {"suppress_tokens": [10**7]},
        {"begin_suppress_tokens": [-1]},
        {"bad_words_ids": [[10**7]]},
        {"bad_words_ids": 1.5},
        {"sequence_bias": {"a": 1}},
        {"sequence_bias": [[[10**7], 1.0]]},
        {"sequence_bias": 3},
        {"watermarking_config": {"x": 1}},
        {"watermarking_config": {"greenlist_ratio": 3}},
    ],
)
def test_values_that_mean_nothing_are_one_sentence(opened: visualglm.VisualGLM, wrong: dict[str, Any]) -> None:
    name = next(iter(wrong))
    for call in (
        lambda: opened.ask(SAMPLE, QUESTION, **wrong),
        lambda: opened.caption([SAMPLE], QUESTION, **wrong),
        lambda: opened.model.chat(opened.tokenizer, str(SAMPLE), QUESTION, **wrong),
    ):
        with pytest.raises(UsageError, match=f"^{name} "):
            call()


@pytest.mark.parametrize(
    "given",
    [
        {"suppress_tokens": torch.tensor([5, 6])},
        {"bad_words_ids": [[5, 6]]},
        {"sequence_bias": [[[5, 6], -2.0]]},
        {"watermarking_config": {"greenlist_ratio": 0.25}},
        {"top_h": 0.4, "seed": 1},
        {"no_repeat_ngram_size": 1},
        {"invalid_slices": [slice(5, 9)]},
    ],
)
def test_rarer_arguments_work(opened: visualglm.VisualGLM, given: dict[str, Any]) -> None:
    assert opened.ask(SAMPLE, QUESTION, max_new_tokens=4, **given).text


def test_reserved_names_are_refused(opened: visualglm.VisualGLM) -> None:
    assert not {"streamer", "generation_config", "self", "stop_strings"} & NAMES
    with pytest.raises(UsageError, match="streamer cannot be given here"):
        opened.ask(SAMPLE, QUESTION, streamer=object())
    for name in ("is_assistant", "custom_generate", "trust_remote_code"):
        with pytest.raises(UsageError, match=f"{name} cannot be given here"):
            opened.ask(SAMPLE, QUESTION, **{name: True})


def test_a_stop_string_ends_the_answer_everywhere(opened: visualglm.VisualGLM, program: Any) -> None:
    whole = opened.ask(SAMPLE, QUESTION).text
    stop = whole[len(whole) // 2 :][:3]
    expected = whole[: whole.index(stop)]
    assert 0 < len(expected) < len(whole)
    answer = opened.ask(SAMPLE, QUESTION, stop=stop)
    assert (answer.text, answer.finish_reason) == (expected, "stop")
    conversation = opened.conversation(SAMPLE)
    assert "".join(conversation.stream(QUESTION, stop=[stop, "never"])) == expected == conversation.turns[0].answer
    captions = opened.caption([SAMPLE, SAMPLE], QUESTION, stop=[stop])
    assert [(one.text, one.finish_reason) for one in captions] == [(expected, "stop")] * 2
    chat = opened.model.chat(opened.tokenizer, str(SAMPLE), QUESTION, language="auto", stop=stop)
    assert chat == (expected, [(QUESTION, expected)])
    done = program("ask", str(SAMPLE), QUESTION, "--stop", stop, "--stop", "never", "--json", "--device", "cpu")
    assert json.loads(done.stdout)["text"] == expected, done.stderr


def test_stop_must_be_text() -> None:
    assert split_stop_strings({"stop": "", "seed": 1}) == ([], {"seed": 1})
    for stop in (3, [1], ["x"] * 99, "y" * 5000):
        with pytest.raises(UsageError, match=r"^stop "):
            split_stop_strings({"stop": stop})


def test_sat_chat_draws_from_its_seed(opened: visualglm.VisualGLM) -> None:
    answers = [
        sat_chat.chat(
            str(SAMPLE), opened.model, opened.tokenizer, QUESTION, temperature=3.0, top_k=1000, top_p=1.0, seed=seed,
            max_length=60,
        )[0]
        for seed in range(4)
    ]  # fmt: skip
    assert len(set(answers)) > 1


def test_a_batch_with_a_bad_image_keeps_the_other_answers(opened: visualglm.VisualGLM, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    images = [SAMPLE, tmp_path / "missing.png", tmp_path / "broken.png", SAMPLE]
    questions = [QUESTION, QUESTION, QUESTION, "描述这张图片。"]
    answers = opened.caption(images, questions, batch_size=2)
    assert [answers[0], answers[3]] == [opened.ask(SAMPLE, QUESTION), opened.ask(SAMPLE, questions[3])]
    for answer, name in zip(answers[1:3], ("missing.png", "broken.png"), strict=True):
        assert answer.finish_reason == "error" and name in (answer.error or "") and answer.text == ""
    assert "error" not in answers[0].to_dict() and answers[1].to_dict()["error"] == answers[1].error
    with pytest.raises(UsageError, match="2 images and 1 questions"):
        opened.caption([SAMPLE, SAMPLE], [QUESTION])


def test_what_load_and_the_model_do_not_take(opened: visualglm.VisualGLM) -> None:
    with pytest.raises(UsageError, match=r"load_in_4bit\. Use quantize=4"):
        visualglm.load(load_in_4bit=True)
    with pytest.raises(UsageError, match="'four' is not a number of bits"):
        visualglm.load(quantize="four")
    assert opened.eval() is opened
    for name in ("to", "half", "cuda", "cpu", "bfloat16"):
        with pytest.raises(UsageError, match="device='cuda', dtype="):
            getattr(opened, name)()


def test_bits_may_be_text() -> None:
    opened = visualglm.load(device="cpu", quantize="8")
    assert opened.model.transformer.layers[0].mlp.dense_h_to_4h.bits == 8


def test_logits_that_are_not_finite_are_an_error(program: Any) -> None:
    opened = visualglm.load(device="cpu")
    with torch.no_grad():
        opened.model.transformer.layers[0].mlp.dense_4h_to_h.bias[3] = float("nan")
    for call in (
        lambda **how: opened.ask(SAMPLE, QUESTION, **how),
        lambda **how: opened.caption([SAMPLE, SAMPLE], QUESTION, **how),
        lambda **how: opened.model.chat(opened.tokenizer, str(SAMPLE), QUESTION, **how),
    ):
        for how in ({}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 1}):
            with pytest.raises(AnswerError, match="NaN or infinity instead of an answer"):
                call(**how)
