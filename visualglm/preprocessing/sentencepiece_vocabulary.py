"""Open and check ChatGLM-6B v1's SentencePiece vocabulary.

In: a path. Out: an opened vocabulary, or a `TokenizerError` that says what is wrong with the file.

The file (`ice_text.model`, 130344 pieces, NFKC): 0 `<unk>`, 3 `<pad>`, 4 `<n>` (newline), 5 `▁`, 130000 `[MASK]`,
130001 `[gMASK]`, 130004 `<sop>`, 130005 `<eop>`, 130008 `<|tab|>`, 130009.. `<|blank_2|>`.. (runs of spaces), 130088..
the 256 bytes. Known ids of the real file, which tests check where VISUALGLM_REAL_VOCABULARY names it: `你好` is
[5, 74874] and then [gMASK] <sop>.
"""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from ..errors import TokenizerError
from ..files.untrusted_files import read_bytes, wrong_download

VOCABULARY_FILE = "ice_text.model"
SPECIAL_TOKENS = {
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}
STRUCTURE = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
TEXT_SPECIALS = (*SPECIAL_TOKENS.values(), "[gMASK]")
"""Special pieces that the tokenizer matches in text."""
LONGEST_BLANK = 80
REQUIRED = (
    *STRUCTURE,
    *SPECIAL_TOKENS.values(),
    *("<s>", "</s>", "<n>", "<|tab|>"),
    *(f"<|blank_{length}|>" for length in range(2, LONGEST_BLANK + 1)),
    *(f"<0x{byte:02X}>" for byte in range(256)),
)


def open_vocabulary(path: str | Path | None) -> sentencepiece.SentencePieceProcessor:
    """Open a vocabulary file.

    Raises:
        TokenizerError: the file is missing, incomplete, or not ChatGLM-6B v1's.
    """
    remedy = "use ice_text.model from zai-org/visualglm-6b."
    if path is None or not Path(path).is_file():
        raise TokenizerError(f"The vocabulary file {path or VOCABULARY_FILE} is missing: {remedy}")
    try:
        data = read_bytes(path)
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    fault = wrong_download(data[:512])
    if fault is not None:
        raise TokenizerError(f"{path} {fault}")
    vocabulary = sentencepiece.SentencePieceProcessor()
    try:
        vocabulary.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise TokenizerError(
            f"{path} is not a SentencePiece vocabulary, or the download is broken: {remedy}"
        ) from error
    missing = [piece for piece in REQUIRED if vocabulary.id_to_piece(vocabulary.piece_to_id(piece)) != piece]
    if missing:
        raise TokenizerError(
            f"{path} lacks {', '.join(missing[:3])}{' and more' * (len(missing) > 3)}: "
            f"it is incomplete, or another model's (ChatGLM2 and 3 have their own); {remedy}"
        )
    if vocabulary.encode("，") != vocabulary.encode(","):
        raise TokenizerError(f"{path} has no NFKC rules; the file is incomplete: {remedy}")
    return vocabulary
