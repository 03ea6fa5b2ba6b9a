"""Build a SentencePiece vocabulary with ChatGLM's layout.

Pieces have the order of the real file: 0 `<unk>`, `<s>`, `</s>`, 3 `<pad>`, 4 `<n>`, 5 `▁`, normal pieces, the eight
structural pieces from `[MASK]` to `<dBLOCK>`, `<|tab|>`, `<|blank_2|>`..`<|blank_80|>`, the 256 bytes. Settings:
NMT-NFKC, dummy prefix, byte fallback, split digits. English pieces are learned from dialogues about drawn scenes;
Chinese words of answers and everyday characters are given. Run: `python -m visualglm_lab.training.build_vocabulary
OUT.model`.
"""

from __future__ import annotations

import io
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protobuf

from visualglm.evaluation.scenes.questions import TASKS, WORDS, exchanges, without_image
from visualglm.evaluation.scenes.scene import SceneMix, scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds

from ..scenes.text_only_scenes import fact_question
from .common_characters import CHARACTERS, ENGLISH

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
STRUCTURE = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
PROMPT = ("▁<img>", "▁</img>", "问", "答", "Q", "A", ":", "▁", "▁Q", "▁A")
CHINESE_WORDS = (
    *("图中", "图里", "图片", "画面", "图上", "什么", "颜色", "形状", "图形", "物体"),
    *("东西", "背景", "多少", "几个", "哪里", "哪儿", "哪些", "位置", "描述", "一个"),
    *("两个", "三个", "四个", "没有", "有没有", "这张", "这是", "这个", "那个", "它是"),
    *("左边", "右边", "上面", "下面", "还是", "不确定", "看不出来", "一共", "总共", "地方"),
    *("场所", "拍摄", "内容", "请", "吗", "的"),
)
PUNCTUATION = list(".,?!:;'\"()-+*/=<>[]{}@#$%&_~|\\^`。、“”‘’《》…—")
LETTERS = [chr(c) for start in ("a", "A") for c in range(ord(start), ord(start) + 26)] + [str(d) for d in range(10)]
ATOMIC, WORD, COMMON, RARE = -2.5, -7.0, -9.0, -14.0
MIX = SceneMix(letters=0.1, frames=0.2, anything=True)


def dialogue_lines(scenes: int) -> Iterator[tuple[str, str]]:
    """Generate (language, text) of prompts and answers about training scenes and about facts on kinds."""
    for seed in islice(seeds(Split.TRAIN), scenes):
        scene, rng = scene_of(seed, most=6, mix=MIX), np.random.default_rng(seed)
        for language in ("zh", "en"):
            without = (without_image(language, rng), *(fact_question(language, rng) for _ in range(3)))
            for exchange in (*exchanges(scene, language, rng, TASKS), *without):
                form = "问:{}" if language == "zh" else "Q:{}"
                yield language, form.format(exchange.question)
                yield language, exchange.answer


def learn_english(lines: Iterable[str], size: int) -> dict[str, float]:
    """Learn English pieces and their log probabilities with SentencePiece's unigram trainer."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=size,
        hard_vocab_limit=False,
        split_digits=True,
        normalization_rule_name="nmt_nfkc",
        num_threads=1,
        minloglevel=2,
    )
    proto = protobuf.ModelProto.FromString(model.getvalue())
    return {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}


def normal_pieces(english_size: int = 700, scenes: int = 600) -> dict[str, float]:
    """Return every normal piece with its score, best first; names of kinds, colours and places are whole pieces."""
    lines = [text for language, text in dialogue_lines(scenes) if language == "en"]
    pieces = learn_english([*lines, *(f"{word} {word.capitalize()}" for word in ENGLISH.split()), *lines], english_size)
    characters = dict.fromkeys(CHARACTERS)
    chinese = "".join(text for language, text in dialogue_lines(scenes) if language == "zh")
    dialogue = dict.fromkeys(character for character in chinese if character > "⺀")
    for rank, character in enumerate([*dialogue, *(c for c in characters if c not in dialogue)]):
        pieces.setdefault(character, COMMON - rank / 1000)
    for character in (*LETTERS, *PUNCTUATION):
        pieces.setdefault(character, RARE)
    for word in (*CHINESE_WORDS, *WORDS["zh"]):
        if len(word) > 1:
            pieces[word] = WORD
    pieces.update(dict.fromkeys(_whole_english(lines), ATOMIC))
    pieces.update(dict.fromkeys(PROMPT, ATOMIC))
    # a piece that NFKC changes can never match
    allowed = {piece: score for piece, score in pieces.items() if unicodedata.normalize("NFKC", piece) == piece}
    return dict(sorted(allowed.items(), key=lambda pair: -pair[1]))


def _whole_english(lines: list[str]) -> Iterator[str]:
    """Yield words of dialogues, names (including those of several words) and everyday words, as after a space."""
    words = {word for line in (*lines, *WORDS["en"], ENGLISH) for word in re.findall("[A-Za-z]+", line)}
    yield from (f"▁{word}" for word in sorted(words))
    for name in WORDS["en"]:
        yield "▁" + name.replace(" ", "▁")
    for line in lines:
        yield from re.findall("^Q:([A-Za-z]+)", line)


def compose_vocabulary(normal: dict[str, float]) -> bytes:
    """Serialize a `ModelProto` with these normal pieces; `▁` comes first among them."""
    proto = protobuf.ModelProto()
    proto.normalizer_spec.CopyFrom(_nfkc())
    proto.trainer_spec.CopyFrom(_trainer())
    table: list[tuple[str, float, int]] = [("<unk>", 0.0, UNKNOWN)]
    table += [(piece, 0.0, CONTROL) for piece in ("<s>", "</s>", "<pad>")]
    table += [("<n>", 0.0, USER_DEFINED), ("▁", normal["▁"], NORMAL)]
    table += [(piece, score, NORMAL) for piece, score in normal.items() if piece != "▁"]
    table += [(piece, 0.0, CONTROL) for piece in STRUCTURE]
    table += [("<|tab|>", 0.0, USER_DEFINED), *((f"<|blank_{n}|>", 0.0, USER_DEFINED) for n in range(2, 81))]
    table += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    for piece, score, kind in table:
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.vocab_size = len(table)
    return proto.SerializeToString()


def _nfkc() -> protobuf.NormalizerSpec:
    """Return NMT-NFKC's compiled table, taken from a temporary vocabulary."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g"] * 4),
        model_writer=model,
        vocab_size=20,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return protobuf.ModelProto.FromString(model.getvalue()).normalizer_spec


def _trainer() -> protobuf.TrainerSpec:
    return protobuf.TrainerSpec(
        model_type=protobuf.TrainerSpec.UNIGRAM,
        split_digits=True,
        user_defined_symbols=["<n>"],
        hard_vocab_limit=False,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(compose_vocabulary(normal_pieces()))
