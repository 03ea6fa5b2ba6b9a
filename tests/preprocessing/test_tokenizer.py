"""The tokenizer against upstream's: every recorded case, plain text, broken files, round trips."""

from __future__ import annotations

import copy
import json
import os
import pickle
from filecmp import cmp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visualglm.errors import TokenizerError
from visualglm.preprocessing.sentencepiece_vocabulary import STRUCTURE
from visualglm.preprocessing.tokenizer import (
    ESCAPE,
    TEXT_SPECIALS,
    ChatGLMTokenizer,
    escape_special_tokens,
    process_response,
)

REFERENCE = Path(__file__).parents[1] / "reference"
CASES: dict[str, Any] = json.loads((REFERENCE / "tokenizer_cases.json").read_text(encoding="utf-8"))
TOKENIZER = ChatGLMTokenizer.from_pretrained(REFERENCE / "hf")
STRUCTURAL = {CASES["special_ids"][piece] for piece in (*STRUCTURE, "<s>", "</s>", "<pad>")}
REAL = os.environ.get("VISUALGLM_REAL_VOCABULARY")

fragments = st.sampled_from(
    [*STRUCTURE, "<s>", "</s>", "<pad>", "<unk>", "<img>", "</img>", "<n>", "<|tab|>", "＜ｓｏｐ＞"]
)
hostile_text = st.lists(st.one_of(fragments, st.text(max_size=5), st.sampled_from(" \n\t<>\x10"))).map("".join)


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: repr(case["text"])[:40])
def test_equals_upstream(case: dict[str, Any]) -> None:
    assert TOKENIZER.encode(case["text"], add_special_tokens=False) == case["ids"]
    assert TOKENIZER(case["text"])["input_ids"] == case["with_special"]
    assert TOKENIZER.tokenize(case["text"]) == case["tokens"]
    assert TOKENIZER.decode(case["ids"]) == case["decoded"]
    if not case["contains_special"]:
        assert TOKENIZER.encode_plain(case["text"]) == case["ids"]


@pytest.mark.parametrize("case", CASES["decode_only"], ids=lambda case: str(case["ids"]))
def test_decodes_as_upstream(case: dict[str, Any]) -> None:
    assert TOKENIZER.decode(case["ids"]) == case["decoded"]


@pytest.mark.parametrize(("raw", "shown"), CASES["process_response"])
def test_processes_responses_as_upstream(raw: str, shown: str) -> None:
    assert process_response(raw) == shown


def test_pads_as_upstream() -> None:
    padding = CASES["padding"]
    assert dict(TOKENIZER(["你好", "Describe the image."], padding=True)) == padding["longest"]
    assert dict(TOKENIZER(["你好"], padding="max_length", max_length=16)) == padding["max_length_16"]
    assert dict(TOKENIZER("你好", "世界")) == padding["pair"]
    tensors = TOKENIZER(["你好", "Describe the image."], return_tensors="pt")
    assert tensors["position_ids"].shape == (2, 2, 14)
    assert tensors["input_ids"].tolist() == padding["longest"]["input_ids"]


def test_pads_on_the_right_when_asked() -> None:
    row = TOKENIZER.pad({"input_ids": [5, 401, 404]}, padding="max_length", max_length=5, padding_side="right")
    assert row["input_ids"] == [5, 401, 404, 3, 3]
    assert row["attention_mask"] == [1, 1, 1, 0, 0]
    assert row["position_ids"] == [[0, 1, 1, 0, 0], [0, 0, 1, 0, 0]]


def test_the_special_ids() -> None:
    ids = CASES["special_ids"]
    assert TOKENIZER.gmask_token_id == ids["[gMASK]"]
    assert TOKENIZER.mask_token_id == ids["[MASK]"]
    assert TOKENIZER.bos_token_id == ids["<sop>"]
    assert TOKENIZER.eos_token_id == ids["<eop>"]
    assert TOKENIZER.pad_token_id == ids["<pad>"]
    assert TOKENIZER.unk_token_id == ids["<unk>"]
    assert TOKENIZER.end_token_id == ids["</s>"]
    assert len(TOKENIZER) == TOKENIZER.vocab_size == CASES["tokenizer_vocab_size"]
    assert TOKENIZER.get_special_tokens_mask([5, 6], [7]) == [0, 0, 1, 1, 0, 1]


def test_special_pieces_strip_the_text_around_them() -> None:
    assert TOKENIZER.encode("a \n<eop>\t b", add_special_tokens=False) == TOKENIZER.encode(
        "a<eop>b", add_special_tokens=False
    )


@settings(deadline=None)
@given(hostile_text)
def test_plain_text_is_never_structure(text: str) -> None:
    assert not STRUCTURAL & set(TOKENIZER.encode_plain(text))


@settings(deadline=None)
@given(hostile_text)
def test_escaped_text_has_the_ids_of_plain_text(text: str) -> None:
    safe = escape_special_tokens(text)
    assert not any(literal in safe for literal in TEXT_SPECIALS)
    assert TOKENIZER.encode(safe, add_special_tokens=False) == TOKENIZER.encode_plain(text.replace(ESCAPE, ""))
    assert escape_special_tokens(safe) == safe


def test_a_vocabulary_that_would_match_structure_is_spelled_out(tmp_path: Path) -> None:
    """SentencePiece never matches a CONTROL piece; it does match a USER_DEFINED `<sop>`, also in full-width letters."""
    model_pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", exc_type=ImportError)
    model = model_pb2.ModelProto.FromString((REFERENCE / "hf" / "ice_text.model").read_bytes())
    for piece in model.pieces:
        if piece.piece in STRUCTURE:
            piece.type = model_pb2.ModelProto.SentencePiece.USER_DEFINED
    (tmp_path / "ice_text.model").write_bytes(model.SerializeToString())
    tokenizer = ChatGLMTokenizer(vocab_file=str(tmp_path / "ice_text.model"))
    assert 404 in tokenizer.sp_model.encode("a<sop>b")
    for text in ("a<sop>b", "[gMASK]", "x [MASK] <eop>", "＜ｓｏｐ＞"):
        plain = tokenizer.encode_plain(text)
        assert not STRUCTURAL & set(plain)
        assert tokenizer.decode(plain) == TOKENIZER.decode(TOKENIZER.encode_plain(text))


@settings(deadline=None)
@given(st.lists(st.integers(min_value=-5, max_value=2_000)))
def test_ids_outside_the_vocabulary_are_ignored(ids: list[int]) -> None:
    known = [index for index in ids if 0 <= index < len(TOKENIZER)]
    assert TOKENIZER.decode(ids) == TOKENIZER.decode(known)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == TOKENIZER.decode(known, skip_special_tokens=True)
    assert len(TOKENIZER.convert_ids_to_tokens(ids)) == len(ids)


def test_decodes_ints_lists_arrays_and_tensors() -> None:
    assert TOKENIZER.decode(114) == "你"
    assert TOKENIZER.decode(torch.tensor([5, 114])) == TOKENIZER.decode(np.array([5, 114])) == "你"
    assert TOKENIZER.decode(torch.tensor([[5, 114], [5, 221]])) == ["你", "好"]
    assert TOKENIZER.batch_decode([[5, 114], []]) == ["你", ""]
    assert TOKENIZER.decode([0, 10], skip_special_tokens=True) == "a"
    assert TOKENIZER.decode(TOKENIZER.encode_plain("a ?"), clean_up_tokenization_spaces=False) == "a ?"


def test_added_tokens_are_text() -> None:
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.add_tokens(["<box>"])
    ids = tokenizer.encode("a<box>b", add_special_tokens=False)
    assert 744 in ids
    assert tokenizer.decode(ids).replace(" ", "") == "a<box>b"


def test_saves_and_copies(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    copies = [
        ChatGLMTokenizer.from_pretrained(tmp_path),
        copy.deepcopy(TOKENIZER),
        pickle.loads(pickle.dumps(TOKENIZER)),
    ]
    for tokenizer in copies:
        for case in CASES["cases"][::7]:
            assert tokenizer(case["text"])["input_ids"] == case["with_special"]
            assert tokenizer.decode(case["ids"]) == case["decoded"]
    assert "auto_map" not in json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert cmp(tmp_path / "ice_text.model", REFERENCE / "hf" / "ice_text.model", shallow=False)


def _cut(size: int) -> bytes:
    return (REFERENCE / "hf" / "ice_text.model").read_bytes()[:size]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"", "is empty"),
        (_cut(2_000), "lacks|not a SentencePiece"),
        (_cut(100_000), "lacks|not a SentencePiece"),
    ],
)
def test_a_broken_vocabulary_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "ice_text.model"
    file.write_bytes(content)
    with pytest.raises(TokenizerError, match=says) as raised:
        ChatGLMTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)


def test_a_vocabulary_without_nfkc_rules_is_refused(tmp_path: Path) -> None:
    model_pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", exc_type=ImportError)
    model = model_pb2.ModelProto.FromString((REFERENCE / "hf" / "ice_text.model").read_bytes())
    model.ClearField("normalizer_spec")
    (tmp_path / "ice_text.model").write_bytes(model.SerializeToString())
    with pytest.raises(TokenizerError, match="NFKC"):
        ChatGLMTokenizer.from_pretrained(tmp_path)


def test_other_models_vocabularies_are_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a few words\nto learn from\n" * 20, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), vocab_size=18, minloglevel=2
    )
    with pytest.raises(TokenizerError, match="ChatGLM2"):
        ChatGLMTokenizer(vocab_file=str(tmp_path / "tokenizer.model"))
    with pytest.raises(TokenizerError, match=r"no ice_text\.model; its tokenizer\.model"):
        ChatGLMTokenizer.from_pretrained(tmp_path)


def test_a_missing_vocabulary_says_so(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no ice_text\.model"):
        ChatGLMTokenizer.from_pretrained(tmp_path)
    for path in (None, str(tmp_path / "x.model"), str(tmp_path)):
        with pytest.raises(TokenizerError, match="missing"):
            ChatGLMTokenizer(vocab_file=path)


def test_the_first_releases_shifted_ids_are_refused() -> None:
    with pytest.raises(TokenizerError, match="num_image_tokens"):
        ChatGLMTokenizer.from_pretrained(REFERENCE / "hf", num_image_tokens=20000)


@pytest.mark.skipif(REAL is None, reason="VISUALGLM_REAL_VOCABULARY does not name the real ice_text.model")
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("你好", [5, 74874, 130001, 130004]),
        (
            "def main():\n    print('hello world')\t# greeting",
            [1616, 594, 125936, 4, 130011, 2274, 89, 7283, 398, 125686, 130008, 61, 25672, 130001, 130004],
        ),
    ],
)
def test_known_ids_of_the_real_vocabulary(text: str, ids: list[int]) -> None:
    """Printed by other ports of ChatGLM-6B from the real file."""
    tokenizer = ChatGLMTokenizer(vocab_file=REAL)
    assert tokenizer(text)["input_ids"] == ids
    assert len(tokenizer) == 130344
    pieces = {"<unk>": 0, "<pad>": 3, "<n>": 4, "▁": 5, "。": 63823, "[gMASK]": 130001, "<sop>": 130004}
    assert {piece: tokenizer.convert_tokens_to_ids(piece) for piece in pieces} == pieces
    assert [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in (0xF0, 0x9F)] == [130328, 130247]
