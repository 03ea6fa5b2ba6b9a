"""Tokenize text with ChatGLM's SentencePiece vocabulary, and decode ids.

In: text, or ids (lists, tensors, batches). Out: ids, or text. A call does what upstream's `tokenization_chatglm.py` did
on transformers < 4.34, including special pieces in the text. `encode_plain` encodes text that a user wrote: there a
literal `<sop>` is five characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AddedToken
from transformers.utils import PaddingStrategy

from ..errors import TokenizerError
from ..files.json_object import check_files
from .chat_messages import CHAT_TEMPLATE
from .chat_tokenizer import ChatTokenizer
from .sentencepiece_vocabulary import (
    LONGEST_BLANK,
    SPECIAL_TOKENS,
    STRUCTURE,
    TEXT_SPECIALS,
    VOCABULARY_FILE,
    open_vocabulary,
)

ESCAPE = "\x10"  # inside a literal special piece it prevents a match; never encoded (NFKC drops it upstream too)
SPACE_BEFORE = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
FULL_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
TRAINING_TIME = "[[训练时间]]"


class ChatGLMTokenizer(ChatTokenizer):
    """Tokenizer of ChatGLM-6B v1, which VisualGLM shares.

    `tokenizer(text)` gives `text [gMASK] <sop>`, a pair `a [gMASK] <sop> b <eop>`. Padded or as tensors it adds
    `attention_mask` [b, s] and `position_ids` [b, 2, s]. `decode` drops control tokens and ids outside the vocabulary
    (the model has more rows than pieces). It removes the space before punctuation as upstream does, unless
    `clean_up_tokenization_spaces=False`. The special pieces belong to the architecture and cannot be renamed.

    Raises:
        TokenizerError: the vocabulary file is missing, broken or another model's.
    """

    vocab_files_names = {"vocab_file": VOCABULARY_FILE}
    model_input_names = ["input_ids", "attention_mask", "position_ids"]
    padding_side = "left"
    gmask_token = "[gMASK]"
    end_token = "</s>"

    def __init__(
        self,
        vocab_file: str | None = None,
        do_lower_case: bool = False,
        remove_space: bool = False,
        num_image_tokens: int = 0,
        **kwargs: Any,
    ) -> None:
        vocabulary = open_vocabulary(vocab_file)
        if num_image_tokens:
            raise TokenizerError(
                f"num_image_tokens is {num_image_tokens}: this is the tokenizer of ChatGLM-6B's first release, whose "
                "ids are shifted; use the tokenizer files of zai-org/visualglm-6b."
            )
        self.do_lower_case = do_lower_case
        self.remove_space = remove_space
        self.num_image_tokens = num_image_tokens
        for name in ("gmask_token", "end_token", "model_specific_special_tokens", "auto_map"):
            kwargs.pop(name, None)  # in upstream's file: pieces that are not special in text, and remote code
        specials = {vocabulary.piece_to_id(piece): _special(piece) for piece in SPECIAL_TOKENS.values()}
        kwargs["added_tokens_decoder"] = {**kwargs.get("added_tokens_decoder", {}), **specials}
        kwargs.update(SPECIAL_TOKENS)
        kwargs.setdefault("clean_up_tokenization_spaces", True)
        kwargs["chat_template"] = kwargs.get("chat_template") or CHAT_TEMPLATE
        super().__init__(vocab_file=str(vocab_file), **kwargs)
        self.init_kwargs.update(
            do_lower_case=do_lower_case,
            remove_space=remove_space,
            num_image_tokens=num_image_tokens,
            gmask_token=self.gmask_token,
            end_token=self.end_token,
        )
        self._never_text = {self.sp_model.piece_to_id(piece) for piece in (*STRUCTURE, "<s>", "</s>", "<pad>")}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> ChatGLMTokenizer:
        """Load as transformers does; raise `TokenizerError` for a local folder without `ice_text.model`."""
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder", ""))
        if "vocab_file" not in kwargs and folder.is_dir() and not (folder / VOCABULARY_FILE).is_file():
            other = "tokenizer.model" if (folder / "tokenizer.model").is_file() else None
            hint = f"; its {other} is that of ChatGLM2 or 3, another vocabulary" if other else ""
            raise TokenizerError(
                f"{folder} has no ice_text.model{hint}. Copy the tokenizer files of zai-org/visualglm-6b into it."
            )
        check_files(pretrained_model_name_or_path, FILES, kwargs.get("subfolder") or "")
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @property
    def gmask_token_id(self) -> int:
        """Id of `[gMASK]`; every prompt ends in `[gMASK] <sop>`."""
        return int(self.sp_model.piece_to_id(self.gmask_token))

    @property
    def end_token_id(self) -> int:
        """Id of `</s>`, kept for code written for upstream's tokenizer."""
        return int(self.sp_model.piece_to_id(self.end_token))

    # text to ids

    def encode_plain(self, text: str) -> list[int]:
        """Encode text without control tokens, whatever the text spells.

        Equal to upstream's ids except for literal special pieces, which upstream turns into control tokens. Newlines,
        tabs, runs of spaces and their spellings `<n>`, `<|tab|>`, `<|blank_k|>` become their pieces, as upstream.
        SentencePiece never matches a CONTROL piece, but matches `<sop>` in a vocabulary that declares it as another
        type (also where NFKC made it from full-width letters). Such an id is replaced by those of its characters.
        """
        ids: list[int] = []
        for index in self.sp_model.encode(self._normalize(text)):
            ids.extend(self._spell_out(index) if index in self._never_text else [index])
        return ids

    def _spell_out(self, index: int) -> list[int]:
        """Encode the characters of a piece, each as its own piece or as bytes."""
        ids = []
        for character in self.sp_model.id_to_piece(index):
            piece = self.sp_model.piece_to_id(character)
            if piece != self.sp_model.unk_id():
                ids.append(piece)
            else:
                ids.extend(self.sp_model.piece_to_id(f"<0x{byte:02X}>") for byte in character.encode())
        return ids

    def _normalize(self, text: str) -> str:
        if self.remove_space:
            text = " ".join(text.split())
        text = text.lower() if self.do_lower_case else text
        text = text.encode("utf-8", "replace").decode()  # lone surrogates, as from a terminal without UTF-8
        return fold_whitespace(text).replace(ESCAPE, "")

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        pieces: list[str] = self.sp_model.encode(self._normalize(text), out_type=str)
        return pieces

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return `a [gMASK] <sop>` or `a [gMASK] <sop> b <eop>` (tokenization_chatglm.py:326-350)."""
        prompt = [*token_ids_0, self.gmask_token_id, self.bos_token_id]
        return prompt if token_ids_1 is None else [*prompt, *token_ids_1, self.eos_token_id]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """Return 1 for the tokens that `build_inputs_with_special_tokens` adds, 0 for text."""
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, already_has_special_tokens=True)
        mask = [0] * len(token_ids_0) + [1, 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), 1]

    # padding

    def _encode_plus(self, *args: Any, return_tensors: Any = None, **kwargs: Any) -> Any:
        """Pad if tensors are requested, as rows of different lengths make no tensor."""
        if return_tensors is not None and kwargs.get("padding_strategy") == PaddingStrategy.DO_NOT_PAD:
            kwargs["padding_strategy"] = PaddingStrategy.LONGEST
        return super()._encode_plus(*args, return_tensors=return_tensors, **kwargs)

    def _pad(
        self,
        encoded_inputs: Any,
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> Any:
        """Add the mask and both position channels, which count from the first real token (0 where padded)."""
        ids = encoded_inputs["input_ids"]
        if padding_strategy == PaddingStrategy.DO_NOT_PAD and max_length is None:
            return encoded_inputs
        positions = encoded_inputs.pop("position_ids", None) or self.positions(ids)
        padded = super()._pad(
            encoded_inputs, max_length, padding_strategy, pad_to_multiple_of, padding_side, return_attention_mask
        )
        padding = [0] * (len(padded["input_ids"]) - len(ids))
        right = (padding_side or self.padding_side) == "right"
        padded["position_ids"] = [row + padding if right else padding + row for row in positions]
        return padded

    def positions(self, ids: list[int]) -> list[list[int]]:
        """Return [2, s]: the index, which stays at the mask from `<sop>` on; and 1, 2, 3... from `<sop>` on."""
        context = ids.index(self.bos_token_id) if self.bos_token_id in ids else len(ids)
        indices = list(range(len(ids)))
        mask = self.gmask_token_id if self.gmask_token_id in ids else self.mask_token_id
        if mask in ids:
            indices[context:] = [ids.index(mask)] * (len(ids) - context)
        return [indices, [0] * context + list(range(1, len(ids) - context + 1))]

    # ids to text

    def is_ignored(self, index: int) -> bool:
        """Test whether an id has no piece: padding, or a row of the model beyond the vocabulary."""
        outside = not 0 <= index < self.vocab_size and index not in self._added_tokens_decoder
        return outside or index == self.pad_token_id

    def is_control(self, index: int) -> bool:
        """Test whether an id is a control token (`<sop>`, `[gMASK]`, `</s>`...)."""
        return 0 <= index < self.vocab_size and bool(self.sp_model.is_control(index))

    def byte_of(self, index: int) -> int | None:
        """Return the byte of a byte piece, or None for other ids."""
        if not 0 <= index < self.vocab_size or not self.sp_model.is_byte(index):
            return None
        return int(self.sp_model.id_to_piece(index)[3:5], 16)

    def raw_text(self, ids: Iterable[int]) -> str:
        """Decode ids without `unfold_whitespace`, including tokens added by `add_tokens`."""
        text = ""
        run: list[int] = []
        for index in ids:
            if index >= self.vocab_size and not self.is_ignored(index):
                text, run = text + self.sp_model.decode(run) + str(self._added_tokens_decoder[index]), []
            elif not self.is_ignored(index):
                run.append(index)
        return text + str(self.sp_model.decode(run))

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(index) for index in token_ids]
        if skip_special_tokens:
            special = set(self.all_special_ids)
            ids = [index for index in ids if index not in special]
        text = unfold_whitespace(self.raw_text(ids))
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return clean_up_spaces(text) if clean_up_tokenization_spaces else text

    def _convert_id_to_token(self, index: int) -> str:
        """Return the piece of an id; "" outside the vocabulary, as an error would end a generation."""
        return str(self.sp_model.id_to_piece(index)) if 0 <= index < self.vocab_size else ""

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces to text, with newlines, tabs and runs of spaces restored."""
        return unfold_whitespace(self.sp_model.decode(list(tokens)))


def _special(piece: str) -> AddedToken:
    """Strip the text on both sides of a special piece, as transformers < 4.34 did."""
    return AddedToken(piece, lstrip=True, rstrip=True, normalized=False, special=True)


def escape_special_tokens(text: str, literals: Iterable[str] = TEXT_SPECIALS) -> str:
    """Escape literal special pieces, for interfaces that take only a string.

    An `ESCAPE` after the first character of each prevents a match. The tokenizer drops that character, so
    `tokenizer(escape_special_tokens(text))` gives the ids of `encode_plain(text)`.
    """
    text = text.replace(ESCAPE, "")
    for literal in literals:
        text = text.replace(literal, literal[0] + ESCAPE + literal[1:])
    return text


def fold_whitespace(text: str) -> str:
    """Replace newlines, tabs and runs of 2 to 80 spaces (longest first) by pieces; keep single spaces."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    return re.sub(f" {{2,{LONGEST_BLANK}}}", lambda run: f"<|blank_{len(run[0])}|>", text)


def unfold_whitespace(text: str) -> str:
    """Undo `fold_whitespace`."""
    text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
    return re.sub(r"<\|blank_([2-9]|[1-7]\d|80)\|>", lambda piece: " " * int(piece[1]), text)


def clean_up_spaces(text: str) -> str:
    """Remove spaces as transformers' `clean_up_tokenization_spaces` does (upstream's default): `a ?` to `a?`."""
    for spaced in SPACE_BEFORE:
        text = text.replace(spaced, spaced.strip())
    return text


def to_fullwidth(text: str) -> str:
    """Replace the training time by 2023, and make `,!:;?` next to a Chinese character full-width."""
    text = text.replace(TRAINING_TIME, "2023年")
    for narrow, wide in FULL_WIDTH.items():
        mark = re.escape(narrow)
        text = re.sub(f"(?<=[\u4e00-\u9fff]){mark}|{mark}(?=[\u4e00-\u9fff])", wide, text)
    return text


def process_response(text: str) -> str:
    """Clean an answer as upstream does before it shows and stores it (`process_response` in HF and sat)."""
    return to_fullwidth(text.strip())
