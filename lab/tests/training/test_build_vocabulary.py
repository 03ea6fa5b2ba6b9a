"""The small vocabulary: the real one's layout, and few byte fallbacks for users' wording."""

from __future__ import annotations

from filecmp import cmp
from pathlib import Path

import pytest
from sentencepiece import sentencepiece_model_pb2 as protobuf

from visualglm.evaluation.scenes.concepts import kinds
from visualglm.evaluation.scenes.kinds import COLOURS
from visualglm.hub.local_folder import packed_model
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer
from visualglm_lab.training.build_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    compose_vocabulary,
    normal_pieces,
)

RECIPES = Path(__file__).parents[2] / "recipes" / "mini" / "ice_text.model"


@pytest.fixture(scope="module")
def made() -> bytes:
    return compose_vocabulary(normal_pieces())


@pytest.fixture(scope="module", params=["the recipe's", "made anew"])
def vocabulary(request: pytest.FixtureRequest, made: bytes) -> bytes:
    return made if request.param == "made anew" else RECIPES.read_bytes()


@pytest.fixture(scope="module")
def tokenizer(vocabulary: bytes, tmp_path_factory: pytest.TempPathFactory) -> ChatGLMTokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "ice_text.model"
    path.write_bytes(vocabulary)
    return ChatGLMTokenizer(str(path))


@pytest.fixture(scope="module")
def proto(vocabulary: bytes) -> protobuf.ModelProto:
    return protobuf.ModelProto.FromString(vocabulary)


def test_the_same_bytes_every_time(made: bytes) -> None:
    assert compose_vocabulary(normal_pieces()) == made


def test_the_packed_vocabulary_is_the_recipes() -> None:
    # never `==` of the bytes: where CI is set, pytest draws the difference of 400 kB for hours
    assert cmp(packed_model() / "ice_text.model", RECIPES, shallow=False)


def test_it_has_six_to_eight_thousand_pieces(proto: protobuf.ModelProto) -> None:
    assert 6000 < len(proto.pieces) < 8000


def test_special_pieces_stand_where_the_real_file_has_them(proto: protobuf.ModelProto) -> None:
    pieces = [(piece.piece, piece.type) for piece in proto.pieces]
    assert pieces[:4] == [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("<pad>", CONTROL)]
    assert pieces[4:6] == [("<n>", USER_DEFINED), ("▁", NORMAL)]
    tail = pieces[-(8 + 80 + 256) :]
    assert [name for name, _ in tail[:8]] == [
        *("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
    ]
    assert all(kind == CONTROL for _, kind in tail[:8])
    assert tail[8:88] == [("<|tab|>", USER_DEFINED), *((f"<|blank_{n}|>", USER_DEFINED) for n in range(2, 81))]
    assert tail[88:] == [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    assert all(kind == NORMAL for _, kind in pieces[5:-344])


def test_the_normaliser_is_nfkc_with_a_dummy_prefix(proto: protobuf.ModelProto) -> None:
    spec = proto.normalizer_spec
    assert (spec.name, spec.add_dummy_prefix, spec.remove_extra_whitespaces) == ("nmt_nfkc", True, False)
    assert len(spec.precompiled_charsmap) > 100_000
    assert proto.trainer_spec.byte_fallback and proto.trainer_spec.split_digits


def test_names_are_whole_pieces(tokenizer: ChatGLMTokenizer) -> None:
    for word in [*(kind.zh[0] for kind in kinds()), *(colour.zh for colour in COLOURS)]:
        assert len(tokenizer.encode_plain(f"有{word}")) == 3, word
    for word in [*(kind.en[0] for kind in kinds()), *(kind.plural for kind in kinds()), *(c.key for c in COLOURS)]:
        assert len(tokenizer.encode_plain(word)) == 1, word


@pytest.mark.parametrize(
    "text", ["请问图片中那个红色的小圆圈旁边是什么东西呀？", "Is the little boat near the big house?"]
)
def test_free_wording_needs_no_bytes(tokenizer: ChatGLMTokenizer, text: str) -> None:
    first_byte = len(tokenizer.sp_model) - 256
    assert all(index < first_byte for index in tokenizer.encode_plain(text))


def test_every_text_survives(tokenizer: ChatGLMTokenizer, tmp_path: Path) -> None:
    for text in ("图中有两个红色的圆形。", "There is an orange cross.", "🦊 zebra 12345\n\tnew   line"):
        assert tokenizer.decode(tokenizer.encode_plain(text)) == text
