"""Prompts against the reference, the limit, training rows, and chat messages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visualglm.errors import ContextLengthError, PromptError
from visualglm.preprocessing.chat_messages import messages_to_turns
from visualglm.preprocessing.prompt import (
    Prompt,
    Turn,
    build_prompt,
    build_training_row,
    language_of,
    marks_of,
    write_turns,
)
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

REFERENCE = Path(__file__).parents[1] / "reference"
TOKENIZER = ChatGLMTokenizer.from_pretrained(REFERENCE / "hf")
ARRAYS = np.load(REFERENCE / "reference.npz")
CASES: dict[str, Any] = json.loads((REFERENCE / "cases.json").read_text(encoding="utf-8"))["cases"]
SLOT, LENGTH = 767, 32


def prompt(turns: list[Turn], **options: Any) -> Prompt:
    options = {"language": "zh", "image_token_id": SLOT, "image_length": LENGTH, **options}
    return build_prompt(TOKENIZER, turns, **options)


def turns_of(case: dict[str, Any]) -> list[Turn]:
    turns = [Turn(question, answer) for question, answer in case["history"]] + [Turn(case["query"])]
    return [replace(turns[0], image_count=int(bool(case["image"]))), *turns[1:]]


@pytest.mark.parametrize("name", ["img_zh", "img_en_query", "img_multi", "txt_zh", "txt_multi", "sat_en_img"])
def test_prompts_are_upstreams(name: str) -> None:
    sat = name.startswith("sat")
    built = prompt(turns_of(CASES[name]), language="en" if sat else "zh")
    filler = 3 if sat else 0  # upstream's placeholder id
    assert [filler if index == SLOT else index for index in built.input_ids] == ARRAYS[f"{name}/input_ids"][0].tolist()
    assert built.dropped_turns == 0
    assert built.image_count == (1 if "image" in CASES[name] and CASES[name]["image"] else 0)


def test_a_training_row_is_upstreams() -> None:
    turns = [Turn("描述这张图片。", CASES["train_pair"]["answer"], image_count=1)]
    ids, labels = build_training_row(TOKENIZER, turns, language="zh", image_token_id=3, image_length=LENGTH)
    assert ids == ARRAYS["train_pair/input_ids"][0].tolist()
    assert labels == ARRAYS["train_pair/labels"][0].tolist()


def test_a_training_row_begins_with_its_history() -> None:
    turns = [Turn("一", "二", 1), Turn("三", "四")]
    ids, labels = build_training_row(TOKENIZER, turns, language="zh", image_token_id=SLOT, image_length=LENGTH)
    asked = prompt([turns[0], Turn("三")]).input_ids
    assert ids == [*asked, *TOKENIZER.encode_plain("四"), TOKENIZER.eos_token_id]
    assert labels == [-100] * (len(asked) - 1) + ids[len(asked) - 1 :]
    with pytest.raises(PromptError, match="no answer"):
        build_training_row(TOKENIZER, [Turn("一")], language="zh", image_token_id=SLOT, image_length=LENGTH)
    short, _ = build_training_row(
        TOKENIZER, turns, language="zh", image_token_id=SLOT, image_length=LENGTH, max_tokens=len(ids) - 1
    )
    assert short.count(SLOT) == LENGTH and len(short) < len(ids)


def test_each_image_precedes_its_turn() -> None:
    turns = [Turn("a", "b", 2), Turn("c", "d"), Turn("e", None, 1)]
    assert write_turns(turns, marks_of("en", "")) == [
        "<img>",
        "</img><img>",
        "</img>Q:a\nA:b\nQ:c\nA:d\n<img>",
        "</img>Q:e\nA:",
    ]
    built = prompt(turns, language="en")
    assert built.input_ids.count(SLOT) == 3 * LENGTH
    assert built.image_count == 3


def test_language_follows_the_question() -> None:
    assert [language_of(text) for text in ("What?", "这 is", "㐀", "？！", "", "カナ")] == [
        "en",
        "zh",
        "zh",
        "en",
        "en",
        "en",
    ]
    history = [Turn("你好", "您好")]
    assert prompt([*history, Turn("Hi")], language="auto") == prompt([*history, Turn("Hi")], language="en")
    assert prompt([*history, Turn("嗨")], language="auto") == prompt([*history, Turn("嗨")], language="zh")
    with pytest.raises(PromptError, match="auto, zh or en"):
        prompt([Turn("x")], language="fr")


def test_the_oldest_turns_are_dropped_whole() -> None:
    turns = [Turn(f"question {number}", "answer", int(number == 0)) for number in range(6)] + [Turn("last?")]
    whole = len(prompt(turns).input_ids)
    assert prompt(turns, max_tokens=whole).dropped_turns == 0
    for room in range(whole - 1, 0, -1):
        try:
            built = prompt(turns, max_tokens=room)
        except PromptError:
            assert room < len(prompt([Turn("last?", None, 1)]).input_ids)
            break
        assert len(built.input_ids) <= room
        assert built.dropped_turns > 0 and built.image_count == 1
        kept = turns[built.dropped_turns :]
        assert built.input_ids == prompt([replace(kept[0], image_count=1), *kept[1:]]).input_ids
        longer = turns[built.dropped_turns - 1 :]
        assert len(prompt([replace(longer[0], image_count=1), *longer[1:]]).input_ids) > room


def test_system_messages_are_never_dropped() -> None:
    turns = [
        Turn("Be brief.\none", "two", 1, "Be brief."),
        Turn("three", "four"),
        Turn("Rhyme.\nfive", None, 0, "Rhyme."),
    ]
    expected = [Turn("Be brief.\nthree", "four", 1), Turn("Rhyme.\nfive")]
    one_less = prompt(turns, language="en", max_tokens=len(prompt(turns, language="en").input_ids) - 1)
    assert one_less.input_ids == prompt(expected, language="en").input_ids
    bare = prompt([Turn("Be brief.\nRhyme.\nfive", None, 1)], language="en").input_ids
    assert prompt(turns, language="en", max_tokens=len(bare)).input_ids == bare
    with pytest.raises(ContextLengthError, match=f"takes {len(bare)} tokens"):
        prompt(turns, language="en", max_tokens=len(bare) - 1)


def test_a_huge_system_message_is_refused_before_it_is_encoded_again_and_again() -> None:
    class Counting:
        bos_token_id, eos_token_id, gmask_token_id = 1, 2, 3
        read = 0

        def encode_plain(self, text: str) -> list[int]:
            self.read += len(text)
            return [7] * len(text)

    tokenizer, huge = Counting(), "Be brief. " * 50_000
    turns = [Turn(f"{huge}\n?", "!", 0, huge), *[Turn("question", "answer")] * 1000, Turn("last?")]
    with pytest.raises(ContextLengthError, match="system messages have"):
        build_prompt(tokenizer, turns, language="en", image_token_id=SLOT, image_length=LENGTH, max_tokens=2000)
    assert tokenizer.read < len(huge) / 10


def test_dropping_thousands_of_turns_is_not_quadratic() -> None:
    class Counting:
        bos_token_id, eos_token_id, gmask_token_id = 1, 2, 3
        read = 0

        def encode_plain(self, text: str) -> list[int]:
            self.read += len(text)
            return [7] * len(text)

    tokenizer, turns = Counting(), [*[Turn("question", "answer")] * 2000, Turn("last?")]
    options: dict[str, Any] = {"language": "en", "image_token_id": SLOT, "image_length": LENGTH}
    whole = len(build_prompt(tokenizer, turns, **options).input_ids)
    tokenizer.read = 0
    built = build_prompt(tokenizer, turns, **options, max_tokens=500)
    assert len(build_prompt(tokenizer, turns[built.dropped_turns :], **options).input_ids) <= 500
    assert len(build_prompt(tokenizer, turns[built.dropped_turns - 1 :], **options).input_ids) > 500
    assert tokenizer.read < 4 * whole


def test_a_too_long_question_gives_the_token_counts() -> None:
    need = len(prompt([Turn("问题", None, 1)]).input_ids)
    with pytest.raises(
        PromptError, match=rf"takes {need} tokens \(32 of them placeholder tokens of images\) and only 20 fit"
    ):
        prompt([Turn("你好", "您好"), Turn("问题", None, 1)], max_tokens=20)


def test_invalid_dialogues_are_refused() -> None:
    for turns, says in (
        ([], "empty"),
        ([Turn("a"), Turn("b")], "has no answer"),
        ([Turn("a", "b")], "ends with an answer"),
    ):
        with pytest.raises(PromptError, match=says):
            prompt(turns)


@pytest.mark.parametrize("blank", ["", " \n\t", "\u3000", "\x10", "\u200b\ufeff"])
def test_a_blank_question_is_refused(blank: str) -> None:
    for turns in ([Turn(blank)], [Turn("a", "b", 1), Turn(blank, None, 1)]):
        with pytest.raises(PromptError, match="blank"):
            prompt(turns)
    with pytest.raises(PromptError, match="blank"):
        prompt([Turn(blank, "b")], continue_answer=True)
    assert prompt([Turn(blank, "b"), Turn("?")]).dropped_turns == 0


def test_an_answer_can_be_continued() -> None:
    begun = prompt([Turn("你好", "您")], continue_answer=True)
    assert begun.input_ids == prompt([Turn("你好")]).input_ids + TOKENIZER.encode_plain("您")


def test_messages_become_turns() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        {"role": "user", "content": "And"},
        {"role": "user", "content": ["this", {"type": "image_url", "image_url": {"url": "b"}}, {"type": "image"}]},
    ]
    turns, images = messages_to_turns(messages)
    assert turns == [Turn("Be brief.\nWhat?", "A cat.", 1, "Be brief."), Turn("And\nthis", None, 2)]
    assert images == ["a.png", "b", None]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        (["ask", CALL, ("tool", "7 cats")], [Turn("ask\n7 cats")]),
        (["ask", {**CALL, "content": ""}, ("tool", "7")], [Turn("ask\n7")]),
        (["ask", {**CALL, "content": "Wait."}, ("tool", "7")], [Turn("ask", "Wait."), Turn("7")]),
        (["ask", {"role": "assistant", "content": None, "refusal": "No."}, "why"], [Turn("ask", "No."), Turn("why")]),
        (["ask", ("assistant", [{"type": "refusal", "refusal": "No."}]), "why"], [Turn("ask", "No."), Turn("why")]),
        (["ask", ("assistant", None), "why"], [Turn("ask", ""), Turn("why")]),
        (["ask", ("assistant", ""), "why"], [Turn("ask", ""), Turn("why")]),
        ([("assistant", "Hello!"), "ask"], [Turn("", "Hello!"), Turn("ask")]),
        (
            [("developer", "Be kind."), ("assistant", "Hello!"), "ask"],
            [Turn("Be kind.", "Hello!", 0, "Be kind."), Turn("ask")],
        ),
        (["ask", ("assistant", "One."), ("assistant", "Two."), "why"], [Turn("ask", "One.\nTwo."), Turn("why")]),
        (["ask", ("function", "7")], [Turn("ask\n7")]),
        ([("user", [{"type": "input_text", "text": "ask"}])], [Turn("ask")]),
    ],
)
def test_messages_that_clients_send(messages: list[Any], turns: list[Turn]) -> None:
    """Also the template, which vLLM's and transformers' users render, writes the same prompt."""
    given = [{"role": "user", "content": one} if isinstance(one, str) else one for one in messages]
    given = [{"role": one[0], "content": one[1]} if isinstance(one, tuple) else one for one in given]
    assert messages_to_turns(given)[0] == turns
    assert (
        TOKENIZER.apply_chat_template(given, tokenize=False, language="en") == write_turns(turns, marks_of("en", ""))[0]
    )


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ({"type": "image", "url": "u"}, "u"),
        ({"type": "image", "path": "p"}, "p"),
        ({"type": "image", "base64": "AAAA"}, "data:image/unknown;base64,AAAA"),
        ({"type": "image_url", "image_url": "u"}, "u"),
        ({"type": "input_image", "image_url": "u"}, "u"),
        ({"type": "image_url", "image_url": {"url": "u", "detail": "low"}}, "u"),
    ],
)
def test_image_sources_of_message_parts(part: dict[str, Any], source: str) -> None:
    assert messages_to_turns([{"role": "user", "content": [part]}])[1] == [source]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "no user message"),
        ([{"role": "system", "content": "x"}], "no user message"),
        ([{"role": "assistant", "content": "x"}], "no user message"),
        ([{"role": "critic", "content": "x"}], "role 'critic'"),
        ([{"role": "tool", "content": [{"type": "image", "url": "x"}]}], "images belong to user"),
        ([{"role": "user", "content": None}], "no content"),
        ([{"role": "user"}], "no content"),
        ([{"role": "user", "content": [{"type": "video", "url": "x"}]}], "type 'video'"),
        ([{"role": "user", "content": [3]}], "type 3"),
        ([{"role": "system", "content": [{"type": "image", "url": "x"}]}], "images belong to user"),
    ],
)
def test_invalid_messages_are_refused(messages: list[Any], says: str) -> None:
    with pytest.raises(PromptError, match=says):
        messages_to_turns(messages)
