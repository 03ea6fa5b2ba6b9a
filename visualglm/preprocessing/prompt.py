"""A dialogue becomes ids with image slots, exactly as upstream writes it.

In: turns (question, answer, how many images). Out: `input_ids` [T] that end in `[gMASK] <sop>`, with
`image_length` slots (`image_token_id`) per image. Knows the tokenizer only by `encode_plain` and its ids; nothing
about pixels or models.

    <img>SLOTS</img>问：question\\n答：answer\\n问：question\\n答：          (English: Q: and A:)

Each image stands before the 问/Q of its turn; text between slots is encoded as one string, so pieces may join across
问： and the question as they do upstream (modeling_chatglm.py 1379-1405; sat model/chat.py). What a user or a model
wrote never makes structure: upstream turned a literal `<sop>` in a question into the real one, which moved the end of
the bidirectional prefix, and opened the path or URL in a literal `<img>...</img>`; here both are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from ..errors import PromptError

Language = Literal["auto", "zh", "en"]

MARKS = {"zh": ("问：", "答："), "en": ("Q:", "A:")}
IMAGE_OPEN, IMAGE_CLOSE = "<img>", "</img>"
CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
IGNORED_LABEL = -100
SLICE = 8192
"""Characters whose tokens are counted at once; a shorter dialogue is encoded as a whole."""
SLICE_ERROR = 256
"""Tokens that a slice may have beyond its part of the whole text: a token is cut at each end."""


class PlainTokenizer(Protocol):
    """What a prompt needs of a tokenizer."""

    bos_token_id: int
    eos_token_id: int

    @property
    def gmask_token_id(self) -> int: ...

    def encode_plain(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Turn:
    """One question, its answer (None while it is being asked), and the images shown with it."""

    question: str
    answer: str | None = None
    image_count: int = 0


@dataclass(frozen=True)
class Prompt:
    """`input_ids` [T], ending in `[gMASK] <sop>` (and an answer's beginning); turns that had to go; images shown.

    Images never go: those of dropped turns stand before the oldest turn that is left.
    """

    input_ids: list[int]
    dropped_turns: int
    image_count: int


def language_of(text: str) -> Literal["zh", "en"]:
    """`zh` when there is a Chinese character, else `en` (upstream's demos: `is_chinese`)."""
    return "zh" if CHINESE.search(text) else "en"


def marks_of(language: Language, question: str) -> tuple[str, str]:
    """问： and 答：, or Q: and A:; `auto` looks at the question."""
    if language not in ("auto", "zh", "en"):
        raise PromptError(f"language is {language!r}: write auto, zh or en.")
    return MARKS[language_of(question) if language == "auto" else language]


def build_prompt(
    tokenizer: PlainTokenizer,
    turns: Sequence[Turn],
    *,
    language: Language,
    image_token_id: int,
    image_length: int,
    max_tokens: int | None = None,
    continue_answer: bool = False,
) -> Prompt:
    """The ids that ask the last turn's question.

    `language` chooses 问/答 or Q/A for the whole dialogue (`auto`: by the last question). Where the dialogue is longer
    than `max_tokens`, the oldest turns go, whole; every image stays, and so does the question. `continue_answer`: the
    last turn has the beginning of an answer, which follows `<sop>`.

    Raises `PromptError` when there is nothing to ask, or the last question does not fit.
    """
    _check_turns(turns, answered=continue_answer)
    beginning = tokenizer.encode_plain(turns[-1].answer) if turns[-1].answer else []
    ids, dropped = _fit(tokenizer, turns, language, [image_token_id] * image_length, max_tokens, len(beginning))
    return Prompt(ids + beginning, dropped, sum(turn.image_count for turn in turns))


def build_training_row(
    tokenizer: PlainTokenizer,
    turns: Sequence[Turn],
    *,
    language: Language,
    image_token_id: int,
    image_length: int,
    max_tokens: int | None = None,
) -> tuple[list[int], list[int]]:
    """`input_ids` [T] and `labels` [T]: the prompt, the last turn's answer, `<eop>`.

    The targets are `<sop>` and everything after it; the context is -100 (finetune_visualglm.py). Too long a dialogue
    loses its oldest turns; `PromptError` when question and answer alone do not fit, or the last turn has no answer.
    """
    _check_turns(turns, answered=True)
    answer = [*tokenizer.encode_plain(turns[-1].answer or ""), tokenizer.eos_token_id]
    ids, _ = _fit(tokenizer, turns, language, [image_token_id] * image_length, max_tokens, len(answer))
    return ids + answer, [IGNORED_LABEL] * (len(ids) - 1) + ids[-1:] + answer


def encode_around_images(tokenizer: PlainTokenizer, texts: Sequence[str], slots: Sequence[int]) -> list[int]:
    """Texts with one image's slots between each two, each text encoded by itself, then `[gMASK] <sop>`."""
    ids = tokenizer.encode_plain(texts[0])
    for text in texts[1:]:
        ids += [*slots, *tokenizer.encode_plain(text)]
    return [*ids, tokenizer.gmask_token_id, tokenizer.bos_token_id]


def write_turns(turns: Iterable[Turn], marks: tuple[str, str]) -> list[str]:
    """The dialogue as text, cut where a image's slots go: one text more than there are images."""
    texts = [""]
    for turn in turns:
        for _ in range(turn.image_count):
            texts[-1] += IMAGE_OPEN
            texts.append(IMAGE_CLOSE)
        texts[-1] += f"{marks[0]}{turn.question}\n{marks[1]}"
        if turn.answer is not None:
            texts[-1] += f"{turn.answer}\n"
    return texts


def cut_at_images(text: str) -> list[str]:
    """A dialogue that was written as one text, cut inside each `<img></img>`, as `write_turns` cuts it."""
    first, *others = text.split(IMAGE_OPEN + IMAGE_CLOSE)
    texts = [first]
    for other in others:
        texts[-1] += IMAGE_OPEN
        texts.append(IMAGE_CLOSE + other)
    return texts


def _fit(
    tokenizer: PlainTokenizer,
    turns: Sequence[Turn],
    language: Language,
    slots: list[int],
    max_tokens: int | None,
    kept_free: int,
) -> tuple[list[int], int]:
    """The longest end of the dialogue that asks its last question and leaves so many tokens free for what follows
    `<sop>`; and how many turns went."""
    marks = marks_of(language, turns[-1].question)
    turns = [*turns[:-1], replace(turns[-1], answer=None)]

    def ids_without(dropped: int) -> list[int]:
        oldest = replace(turns[dropped], image_count=sum(turn.image_count for turn in turns[: dropped + 1]))
        return encode_around_images(tokenizer, write_turns([oldest, *turns[dropped + 1 :]], marks), slots)

    first = 0 if max_tokens is None else _first_that_may_fit(tokenizer, turns, max_tokens - kept_free)
    ids = ids_without(first)
    if max_tokens is None or len(ids) <= max_tokens - kept_free:
        return ids, first
    shown = len(slots) * sum(turn.image_count for turn in turns)
    return _longest(ids_without, first, len(turns) - 1, max_tokens - kept_free, shown)


def _first_that_may_fit(tokenizer: PlainTokenizer, turns: Sequence[Turn], room: int) -> int:
    """Return the index of the oldest turn that may be part of a prompt of `room` tokens.

    Counts slices of the newest text until `room` is surely exceeded, so that a huge dialogue is never encoded whole.

    Raises:
        PromptError: the last question alone exceeds it.
    """
    text = ""
    for index in range(len(turns) - 1, -1, -1):
        text = f"{turns[index].question}\n{turns[index].answer or ''}\n{text}"
        for end in range(len(text), SLICE - 1, -SLICE):
            room -= max(len(tokenizer.encode_plain(text[end - SLICE : end])) - SLICE_ERROR, 0)
            if room < 0 and index == len(turns) - 1:
                raise PromptError(
                    f"The question has {len(turns[index].question)} characters, which do not fit: shorten it."
                )
            if room < 0:
                return index + 1
        text = text[: len(text) % SLICE]
    return 0


def _longest(
    ids_without: Callable[[int], list[int]], first: int, last: int, room: int, slots: int
) -> tuple[list[int], int]:
    """The ids without the fewest oldest turns, more than `first` and at most `last`, that fit into `room`; and how many
    turns that is.

    Fewer turns are never longer, so it halves what is left to try: a client may send thousands of turns.
    """
    fitting, few, many = ids_without(last), first + 1, last
    if len(fitting) > room:
        raise PromptError(
            f"The question takes {len(fitting)} tokens ({slots} of them slots of images) and only {max(room, 0)} "
            "fit: shorten it, or show fewer images."
        )
    while few < many:
        middle = (few + many) // 2
        ids = ids_without(middle)
        if len(ids) <= room:
            fitting, many = ids, middle
        else:
            few = middle + 1
    return fitting, many


def _check_turns(turns: Sequence[Turn], answered: bool) -> None:
    if not turns:
        raise PromptError("The dialogue is empty: ask something.")
    for turn in turns[:-1]:
        if turn.answer is None:
            raise PromptError(f"The question {turn.question[:40]!r} has no answer: only the last one may be open.")
    if answered and turns[-1].answer is None:
        raise PromptError("The last question has no answer to learn from or to continue.")
    if not answered and turns[-1].answer is not None:
        raise PromptError("The dialogue ends with an answer: add the next question.")
