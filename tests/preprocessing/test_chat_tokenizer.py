"""Chat messages through the tokenizer: ids, masks, text, files and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualglm.errors import PromptError, UsageError
from visualglm.preprocessing.chat_messages import CHAT_TEMPLATE, messages_to_turns
from visualglm.preprocessing.processor import VisualGLMProcessor
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

PROCESSOR = VisualGLMProcessor.from_pretrained(Path(__file__).parents[1] / "reference" / "hf")
TOKENIZER = PROCESSOR.tokenizer
ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "您好"},
    {"role": "user", "content": "What?"},
]
ANSWERED = [*ASKED, {"role": "assistant", "content": "A cat."}]

texts = st.one_of(
    st.text(max_size=8), st.sampled_from(["<sop>", "[gMASK]", "<img></img>", "你好\n", " a ", "Q:", "<n>"])
)
roles = st.sampled_from(["system", "user", "assistant"])


@pytest.mark.parametrize("language", ["auto", "zh", "en"])
def test_messages_have_the_ids_of_the_processor(language: Any) -> None:
    expected = PROCESSOR.apply_chat_template([ASKED, ASKED[1:2]], tokenize=True, return_dict=True, language=language)
    encoded = TOKENIZER.apply_chat_template([ASKED, ASKED[1:2]], padding=True, language=language)
    assert dict(encoded) == dict(expected)
    assert TOKENIZER.apply_chat_template(ASKED, language=language)["input_ids"] == expected["input_ids"][0]
    right = TOKENIZER.apply_chat_template(
        [ASKED, ASKED[1:2]], language=language, padding=True, tokenizer_kwargs={"padding_side": "right"}
    )
    assert right["attention_mask"][1] == expected["attention_mask"][1][::-1]
    tensors = TOKENIZER.apply_chat_template([ASKED, ASKED[1:2]], language=language, return_tensors="pt")
    assert tensors["input_ids"].tolist() == expected["input_ids"]
    assert TOKENIZER.apply_chat_template(ASKED, return_tensors="pt", return_dict=False).shape[0] == 1


def test_answered_messages_are_training_rows() -> None:
    encoded = TOKENIZER.apply_chat_template(ANSWERED, return_assistant_tokens_mask=True)
    ids, labels = PROCESSOR.build_training_row(messages_to_turns(ANSWERED)[0])
    assert encoded["input_ids"] == ids
    assert [index if kept else -100 for index, kept in zip(ids, encoded["assistant_masks"], strict=True)] == labels
    begun = TOKENIZER.apply_chat_template(ANSWERED, continue_final_message=True, return_dict=False)
    assert begun == ids[:-1]


@settings(deadline=None)
@given(st.lists(st.tuples(roles, texts), min_size=1, max_size=6), st.sampled_from(["auto", "zh", "en"]))
def test_the_jinja_template_writes_what_build_prompt_encodes(said: list[tuple[str, str]], language: Any) -> None:
    messages = [{"role": role, "content": text} for role, text in said]
    try:
        ids = TOKENIZER.apply_chat_template(messages, language=language, add_generation_prompt=True)["input_ids"]
    except PromptError:
        return
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, language=language)
    assert TOKENIZER(text)["input_ids"] == ids


def test_the_template_is_saved(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    opened = ChatGLMTokenizer.from_pretrained(tmp_path)
    assert opened.chat_template == CHAT_TEMPLATE
    assert opened.apply_chat_template(ASKED) == TOKENIZER.apply_chat_template(ASKED)


@pytest.mark.parametrize("tokenize", [True, False])
@pytest.mark.parametrize(
    ("messages", "options", "says"),
    [
        ([], {}, "no user message"),
        ([{"role": "critic", "content": "x"}], {}, "role 'critic'"),
        ([{"role": "user", "content": " "}], {}, "blank"),
        (ASKED, {"tools": [{}]}, "tools"),
    ],
)
def test_invalid_messages_are_refused(messages: Any, options: dict[str, Any], says: str, tokenize: bool) -> None:
    with pytest.raises(PromptError, match=says):
        TOKENIZER.apply_chat_template(messages, tokenize=tokenize, **options)


def test_images_truncation_and_unknown_arguments_are_refused() -> None:
    with pytest.raises(PromptError, match="takes no images"):
        TOKENIZER.apply_chat_template([{"role": "user", "content": [{"type": "image", "path": "a.png"}, "What?"]}])
    with pytest.raises(PromptError, match="never cut"):
        TOKENIZER.apply_chat_template(ASKED, truncation=True, max_length=3)
    with pytest.raises(UsageError, match="'paddin'"):
        TOKENIZER.apply_chat_template(ASKED, paddin=True)
