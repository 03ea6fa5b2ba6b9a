"""`language="en"`: no Chinese character in an answer, whatever the weights; `auto` forbids nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import visualglm
from visualglm.preprocessing.chinese_token_filter import chinese_slices, forbid_chinese_tokens
from visualglm.preprocessing.prompt import CHINESE
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

PACKED = visualglm.packed_model()
SAMPLE = sorted((PACKED / "samples").glob("*.png"))[0]


def test_exactly_the_ids_with_a_chinese_character_are_forbidden(tokenizer: ChatGLMTokenizer) -> None:
    forbidden = {index for ids in chinese_slices(tokenizer) for index in range(ids.start, ids.stop)}
    for index in range(tokenizer.vocab_size):
        if tokenizer.byte_of(index) is None:
            assert (index in forbidden) == bool(CHINESE.search(tokenizer.sp_model.id_to_piece(index)))
    first, last = (tokenizer.sp_model.piece_to_id(f"<0x{byte:02X}>") for byte in (0, 255))
    allowed = [byte for byte in range(256) if first + byte not in forbidden]
    assert last == first + 255
    for low in range(0x3400, 0x10000, 64):
        spelled = chr(low).encode("utf-8", "replace")
        assert not CHINESE.match(chr(low)) or spelled[0] not in allowed, hex(low)
    assert set(range(128)) <= set(allowed), "ASCII is English"


def test_only_an_explicit_en_forbids(tokenizer: ChatGLMTokenizer) -> None:
    given = {"invalid_slices": [slice(7, 9)], "top_k": 3}
    assert (
        forbid_chinese_tokens(tokenizer, "auto", given) is given
        and forbid_chinese_tokens(tokenizer, "zh", given) is given
    )
    assert forbid_chinese_tokens(tokenizer, "en", given) == {
        "invalid_slices": [slice(7, 9), *chinese_slices(tokenizer)],
        "top_k": 3,
    }


@pytest.mark.parametrize("api", ["conversation", "model.chat", "caption"])
def test_no_chinese_whatever_the_weights(api: str) -> None:
    """The head is turned so that Chinese pieces and bytes are by far the likeliest, and they are said without `en`."""
    opened: Any = visualglm.load(device="cpu")
    with torch.no_grad():
        opened.model.lm_head.weight = torch.nn.Parameter(opened.model.lm_head.weight * 0.01)
        hidden = torch.zeros(opened.model.config.vocab_size)
        for ids in chinese_slices(opened.tokenizer):
            hidden[ids] = 5.0
    opened.model.lm_head.register_forward_hook(lambda module, args, output: output + hidden)
    question = "What is in the picture?"

    def answer(language: str) -> str:
        sampling: dict[str, Any] = {"max_new_tokens": 24, "seed": 3, "do_sample": True, "top_k": 0}
        if api == "conversation":
            return opened.conversation(SAMPLE, language).ask(question, **sampling).text
        if api == "caption":
            return opened.caption([SAMPLE], question, language, **sampling)[0].text
        marks = "en" if language == "en" else "zh"
        return opened.model.chat(opened.tokenizer, str(SAMPLE), question, language=marks, **sampling)[0]

    assert CHINESE.search(answer("auto")) and not CHINESE.search(answer("en"))
