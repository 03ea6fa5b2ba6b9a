"""Streaming: the pieces are the whole, whatever the ids, and no character is ever shown in half."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualglm.preprocessing.incremental_decoder import IncrementalDecoder
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer, process_response

TOKENIZER = ChatGLMTokenizer.from_pretrained(Path(__file__).parents[1] / "reference" / "hf")
# what the rules look at: spaces, quotes, punctuation, `<|blank_2|>` spelled out, bytes, controls, ids of no piece
PIECES = ["▁", ",", "?", "你", "好", "的", "。", "n", "t", "m", "v", "e", "r", "s", "<eop>", "<sop>", "<pad>", "<n>"]
TROUBLE = [TOKENIZER.convert_tokens_to_ids(piece) for piece in PIECES] + [
    *TOKENIZER.encode_plain("<|blank_2|><n>' '! : ; 训练时间 []"),
    *TOKENIZER.encode_plain("世🎉é"),
    *TOKENIZER.encode_plain("<|tab|>   "),
    *(TOKENIZER.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in (0xE4, 0xF0, 0xC3, 0x80, 0xFF, 0xED, 0x41)),
    *(750, 767, -1),
]
anything = st.one_of(
    st.lists(st.integers(min_value=0, max_value=770), max_size=40),
    st.lists(st.sampled_from(TROUBLE), max_size=30),
)
texts = st.lists(
    st.sampled_from([*"你好,!:;?. '[]<>|n t\n\t训a", "[[训练时间]]", "<|blank_3|>", "  ", " 's", " 've"]), max_size=30
)


def stream(ids: list[int], process: bool) -> list[str]:
    decoder = IncrementalDecoder(TOKENIZER, process=process)
    return [*(decoder.push(index) for index in ids), decoder.finish()]


@settings(max_examples=300, deadline=None)
@given(anything)
def test_joined_pieces_equal_the_decoded_ids(ids: list[int]) -> None:
    whole = TOKENIZER.decode(ids)
    assert "".join(stream(ids, process=False)) == whole
    assert "".join(stream(ids, process=True)) == process_response(whole)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_joined_pieces_equal_the_decoded_text(parts: list[str]) -> None:
    ids = TOKENIZER.encode_plain("".join(parts))
    whole = TOKENIZER.decode(ids)
    assert "".join(stream(ids, process=False)) == whole
    assert "".join(stream(ids, process=True)) == process_response(whole)


@settings(deadline=None)
@given(st.text(alphabet="世界🎉éa你 ", max_size=20))
def test_never_half_a_character(text: str) -> None:
    assert not any("\ufffd" in piece for piece in stream(TOKENIZER.encode_plain(text), process=False))


def test_a_character_waits_for_its_last_byte() -> None:
    assert stream([716, 677, 648, 11], process=False) == ["", "", "你", ",", ""]


def test_invalid_bytes_become_replacement_characters() -> None:
    assert stream([716, 11], process=False) == ["", "\ufffd,", ""]
    assert stream([716, 677], process=False)[-1] == "\ufffd\ufffd"


def test_text_is_returned_as_soon_as_it_is_final() -> None:
    ids = TOKENIZER.encode_plain("图中有一只猫。")
    assert all(stream(ids, process=True)[index] for index in range(2, len(ids)))


@pytest.mark.parametrize("process", [False, True])
def test_other_clean_up_rules_are_the_tokenizers(process: bool) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(
        Path(__file__).parents[1] / "reference" / "hf", clean_up_tokenization_spaces=False
    )
    decoder = IncrementalDecoder(tokenizer, process=process)
    text = "".join(decoder.push(index) for index in tokenizer.encode_plain("a ? b 's")) + decoder.finish()
    assert text == decoder.text == "a ? b 's"
