"""Conversation and Answer: remembered images, streams that stop, batches that equal single answers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from PIL import Image

import visualglm
from visualglm.errors import ImageError, PromptError, TokenizerError, UsageError
from visualglm.inference.generation_settings import generation_settings
from visualglm.inference.start_reply import ask_prompt
from visualglm.preprocessing.prompt import Turn

from .conftest import REFERENCE

IMAGE = REFERENCE / "images" / "rgb.png"
OTHER = REFERENCE / "images" / "odd.png"
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}
QUESTION = "描述这张图片。"


@pytest.fixture(scope="module")
def opened() -> visualglm.VisualGLM:
    return visualglm.load(REFERENCE / "hf", device="cpu", dtype="float32")


def test_load_takes_every_layout_and_answers_the_same(opened: visualglm.VisualGLM) -> None:
    expected = opened.ask(IMAGE, QUESTION, **GREEDY).text
    assert expected
    sat = visualglm.load(
        REFERENCE / "sat", tokenizer=REFERENCE / "hf", device="cpu", dtype="float32", rotary_frequencies="half"
    )
    assert sat.ask(IMAGE, QUESTION, **GREEDY).text == expected
    file = visualglm.load(REFERENCE / "hf", tokenizer=REFERENCE / "hf" / "ice_text.model", device="cpu")
    assert file.ask(IMAGE, QUESTION, **GREEDY).text == expected


def test_without_a_vocabulary_the_model_works_and_text_says_what_is_missing() -> None:
    bare = visualglm.load(REFERENCE / "sat", device="cpu", dtype="float32")
    assert bare.model(torch.tensor([[5, 401, 404]])).logits.shape == (1, 3, 768)
    with pytest.raises(TokenizerError, match=r"ice_text\.model"):
        bare.ask(IMAGE, QUESTION)
    with pytest.raises(TokenizerError, match="nowhere"):
        visualglm.load(REFERENCE / "sat", tokenizer="/nowhere")


def test_upstreams_sampling_defaults(opened: visualglm.VisualGLM) -> None:
    config = opened.model.generation_config
    assert (config.max_length, config.min_length, config.top_k, config.top_p) == (1024, 100, 100, 0.4)
    assert (config.temperature, config.repetition_penalty, config.do_sample) == (0.8, 1.2, True)


def test_conversation_equals_chat(opened: visualglm.VisualGLM) -> None:
    conversation = opened.conversation(IMAGE)
    first = conversation.ask(QUESTION, **GREEDY)
    second = conversation.ask("它是什么颜色的？", **GREEDY)
    one, history = opened.model.chat(opened.tokenizer, IMAGE, QUESTION, **GREEDY)
    two, history = opened.model.chat(opened.tokenizer, "它是什么颜色的？", history=history, **GREEDY)
    assert [first.text, second.text] == [one, two]
    assert conversation.history == history
    assert (first.finish_reason, first.completion_tokens) == ("length", 12)
    assert first.seconds > 0
    assert first.prompt_tokens > 32


def test_a_image_is_encoded_once(opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = opened.model.encode_images
    monkeypatch.setattr(opened.model, "encode_images", lambda pixels: calls.append(1) or encode(pixels))
    conversation = opened.conversation(IMAGE)
    for _ in range(3):
        conversation.ask(QUESTION, **GREEDY)
    assert len(calls) == 1
    conversation.clear()
    assert conversation.ask(QUESTION, **GREEDY).prompt_tokens < 32, "clear forgets the picture too, as upstream"


def test_a_later_image_belongs_to_its_turn(opened: visualglm.VisualGLM) -> None:
    conversation = opened.conversation(IMAGE)
    conversation.ask(QUESTION, **GREEDY)
    conversation.ask("这张呢？", image=OTHER, **GREEDY)
    assert [turn.image_count for turn in conversation.turns] == [1, 1]


def test_stream_equals_whole_and_stops_when_told(opened: visualglm.VisualGLM) -> None:
    whole = opened.ask(IMAGE, QUESTION, **GREEDY).text
    conversation = opened.conversation(IMAGE)
    assert "".join(conversation.stream(QUESTION, **GREEDY)) == whole

    threads = threading.active_count()
    pieces = conversation.stream(QUESTION, do_sample=False, max_new_tokens=1500, eos_token_id=766)
    next(pieces)
    pieces.close()
    assert threading.active_count() == threads, "the generating thread has ended"
    assert conversation.answer is not None
    assert conversation.answer.finish_reason == "cancelled"
    assert conversation.answer.completion_tokens < 1500
    assert conversation.turns[-1].answer == conversation.answer.text


def test_an_error_in_the_generating_thread_reaches_the_reader(
    opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.model, "generate", lambda **kwargs: 1 / 0)
    conversation = opened.conversation()
    with pytest.raises(ZeroDivisionError):
        conversation.ask(QUESTION)
    assert conversation.turns == []


def test_captions_of_a_batch_equal_single_answers(opened: visualglm.VisualGLM) -> None:
    images = [IMAGE, OTHER, Image.new("RGB", (30, 20), "red")]
    answers = opened.caption(images, QUESTION, batch_size=2, **GREEDY)
    assert [answer.text for answer in answers] == [opened.ask(image, QUESTION, **GREEDY).text for image in images]


def test_language_follows_the_question(opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    generate = opened.model.generate
    monkeypatch.setattr(opened.model, "generate", lambda **kw: seen.append(kw["input_ids"]) or generate(**kw))
    for question, mark in (("What is this?", "Q:"), ("这是什么？", "问:")):
        opened.conversation().ask(question, **GREEDY)
        assert opened.tokenizer.decode(seen[-1][0]).startswith(mark)


def test_mistakes_leave_the_conversation_as_it_was(opened: visualglm.VisualGLM) -> None:
    conversation = opened.conversation(IMAGE)
    with pytest.raises(ImageError):
        conversation.ask(QUESTION, image="missing.png")
    with pytest.raises(PromptError):
        conversation.ask("猫" * 3000, image=OTHER)
    with pytest.raises(UsageError, match="streamer"):
        conversation.ask(QUESTION, streamer=None or object())
    with pytest.raises(UsageError, match="num_return_sequences"):
        conversation.ask(QUESTION, num_return_sequences=2)
    assert conversation.turns == []
    assert 32 < conversation.ask(QUESTION, **GREEDY).prompt_tokens < 64, "one picture, not two"


def test_a_second_question_waits_for_the_first(opened: visualglm.VisualGLM) -> None:
    conversation = opened.conversation(IMAGE)
    pieces = conversation.stream(QUESTION, do_sample=False, max_new_tokens=300, eos_token_id=766)
    next(pieces)
    with pytest.raises(UsageError, match="streamed"):
        conversation.ask(QUESTION)
    pieces.close()
    assert conversation.ask(QUESTION, **GREEDY).text


def test_more_room_for_the_answer_never_makes_it_shorter(opened: visualglm.VisualGLM) -> None:
    conversation = opened.conversation(IMAGE)
    conversation.turns = [Turn("猫" * 60, "狗" * 60) for _ in range(12)]
    lengths = []
    for wished in (100, 800, 1900, 5000):
        settings = generation_settings(opened.model, max_new_tokens=wished)
        turns = [*conversation.turns, Turn(QUESTION, image_count=1)]
        prompt = ask_prompt(opened.processor, turns, "zh", settings.limits)
        config = settings.arguments(len(prompt.input_ids))["generation_config"]
        lengths.append(config.max_length - len(prompt.input_ids))
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("wrong", [{"max_length": 0}, {"max_new_tokens": -1}])
def test_lengths_below_one_are_refused(opened: visualglm.VisualGLM, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        opened.ask(IMAGE, QUESTION, **wrong)


def test_the_smallest_of_two_limits_counts(opened: visualglm.VisualGLM) -> None:
    answer = opened.ask(IMAGE, QUESTION, max_length=70, max_new_tokens=500, do_sample=False, eos_token_id=766)
    assert answer.prompt_tokens + answer.completion_tokens == 70


@pytest.mark.parametrize("device", ["cpu:x", "quantum", "cuda:99"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(UsageError, match=device):
        visualglm.load(REFERENCE / "hf", device=device)


def test_caption_wants_a_list(opened: visualglm.VisualGLM) -> None:
    with pytest.raises(UsageError, match="list"):
        opened.caption("photo.jpg")
