"""Build the token ids of a dialogue, exactly as upstream writes it.

In: turns (question, answer, number of images). Out: `input_ids` [T] that end in `[gMASK] <sop>`, with `image_length`
placeholder tokens (`image_token_id`) per image.

    <img>PLACEHOLDERS</img>问：question\\n答：answer\\n问：question\\n答：          (English: Q: and A:)

Each image precedes the 问/Q of its turn. Text between images is encoded as one string, so pieces may join across 问：
and the question as they do upstream (modeling_chatglm.py 1379-1405; sat model/chat.py). Text of users and models is
never structure. Upstream turned a literal `<sop>` in a question into the control token, which moved the end of the
bidirectional prefix, and opened the path or URL in a literal `<img>...</img>`. Here both are plain text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from ..errors import ContextLengthError, PromptError

Language = Literal["auto", "zh", "en"]

MARKS = {"zh": ("问：", "答："), "en": ("Q:", "A:")}
IMAGE_OPEN, IMAGE_CLOSE = "<img>", "</img>"
CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
IGNORED_LABEL = -100
SLICE = 8192
"""Characters that are encoded at once to count tokens; a shorter dialogue is encoded whole."""
SLICE_ERROR = 256
"""Tokens that a slice may have in excess of its part of the whole text, as cutting splits tokens."""


class PlainTokenizer(Protocol):
    """Protocol of the tokenizer that builds prompts."""

    bos_token_id: int
    eos_token_id: int

    @property
    def gmask_token_id(self) -> int: ...

    def encode_plain(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Turn:
    """One question, its answer (None: not answered yet), the number of its images, and the text of system messages
    that `question` contains."""

    question: str
    answer: str | None = None
    image_count: int = 0
    system: str = ""


@dataclass(frozen=True)
class Prompt:
    """`input_ids` [T], the number of dropped turns, and the number of images.

    The ids end in `[gMASK] <sop>`, then the beginning of an answer if one is continued. Images and system messages are
    never dropped: those of dropped turns move to the oldest remaining turn.
    """

    input_ids: list[int]
    dropped_turns: int
    image_count: int


def describe_dropped_turns(count: int, language: Literal["zh", "en"] = "en") -> str:
    """Return the sentence with which every interface reports `Prompt.dropped_turns`."""
    if language == "zh":
        return f"对话太长，最早的 {count} 轮没有进入提示。"
    turns = "oldest turn was" if count == 1 else f"{count} oldest turns were"
    return f"The dialogue is too long. Its {turns} left out of the prompt."


def language_of(text: str) -> Literal["zh", "en"]:
    """Return `zh` if the text has a Chinese character, else `en` (upstream's demos: `is_chinese`)."""
    return "zh" if CHINESE.search(text) else "en"


def marks_of(language: Language, question: str) -> tuple[str, str]:
    """Return 问： and 答：, or Q: and A:; `auto` decides by the question.

    Raises:
        PromptError: the language is unknown.
    """
    if language not in ("auto", "zh", "en"):
        raise PromptError(f"language is {language!r}. Write auto, zh or en.")
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
    """Build the ids that ask the last turn's question.

    `language` selects 问/答 or Q/A for the whole dialogue (`auto`: by the last question). If the dialogue exceeds
    `max_tokens`, the oldest turns are dropped whole; every image, every system message and the last question remain.
    `continue_answer`: the last turn has the beginning of an answer, which follows `<sop>`.

    Raises:
        PromptError: there is no question, or the last one is blank.
        ContextLengthError: what must remain does not fit.
    """
    _check_turns(turns, answered=continue_answer)
    check_question(turns[-1].question)
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
    """Build `input_ids` [T] and `labels` [T]: the prompt, the last turn's answer, `<eop>`.

    The targets are `<sop>` and everything after it; the context is -100 (finetune_visualglm.py). If the dialogue
    exceeds `max_tokens`, the oldest turns are dropped.

    Raises:
        PromptError: the last turn has no answer.
        ContextLengthError: question and answer alone do not fit.
    """
    _check_turns(turns, answered=True)
    answer = [*tokenizer.encode_plain(turns[-1].answer or ""), tokenizer.eos_token_id]
    ids, _ = _fit(tokenizer, turns, language, [image_token_id] * image_length, max_tokens, len(answer))
    return ids + answer, [IGNORED_LABEL] * (len(ids) - 1) + ids[-1:] + answer


def build_chat_row(
    tokenizer: PlainTokenizer,
    turns: Sequence[Turn],
    *,
    continue_answer: bool = False,
    add_generation_prompt: bool | None = None,
    **settings: Any,
) -> tuple[Prompt, list[int]]:
    """Build the prompt of a question, or the training row of an answered dialogue, and its mask [T].

    The mask is 1 where a training row has a label: GLM learns the last answer only, as it reads the text before in both
    directions. `settings` are the other arguments of `build_prompt`.

    Raises:
        PromptError: as `build_prompt`, which `add_generation_prompt=True` selects for an answered dialogue too.
    """
    if not turns or turns[-1].answer is None or continue_answer or add_generation_prompt:
        prompt = build_prompt(tokenizer, turns, continue_answer=continue_answer, **settings)
        return prompt, [0] * len(prompt.input_ids)
    ids, labels = build_training_row(tokenizer, turns, **settings)
    images = sum(turn.image_count for turn in turns)
    return Prompt(ids, 0, images), [int(label != IGNORED_LABEL) for label in labels]


def encode_around_images(tokenizer: PlainTokenizer, texts: Sequence[str], placeholders: Sequence[int]) -> list[int]:
    """Encode each text by itself, one image's placeholder tokens between two texts, then `[gMASK] <sop>`."""
    ids = tokenizer.encode_plain(texts[0])
    for text in texts[1:]:
        ids += [*placeholders, *tokenizer.encode_plain(text)]
    return [*ids, tokenizer.gmask_token_id, tokenizer.bos_token_id]


def write_turns(turns: Iterable[Turn], marks: tuple[str, str]) -> list[str]:
    """Write the dialogue as text, split where the placeholder tokens of each image go (images + 1 texts)."""
    texts = [""]
    for turn in turns:
        for _ in range(turn.image_count):
            texts[-1] += IMAGE_OPEN
            texts.append(IMAGE_CLOSE)
        texts[-1] += f"{marks[0]}{turn.question}\n{marks[1]}"
        if turn.answer is not None:
            texts[-1] += f"{turn.answer}\n"
    return texts


def split_at_images(text: str) -> list[str]:
    """Split a dialogue in one text inside each `<img></img>`, as `write_turns` does."""
    first, *others = text.split(IMAGE_OPEN + IMAGE_CLOSE)
    texts = [first]
    for other in others:
        texts[-1] += IMAGE_OPEN
        texts.append(IMAGE_CLOSE + other)
    return texts


def merge_dropped(turns: Sequence[Turn], dropped: int) -> Turn:
    """Return turn number `dropped` with the images and system messages of the turns before it."""
    oldest = turns[dropped]
    texts = [*(turn.system for turn in turns[:dropped] if turn.system), oldest.question]
    images = sum(turn.image_count for turn in turns[: dropped + 1])
    return replace(oldest, question="\n".join(texts), image_count=images)


def _fit(
    tokenizer: PlainTokenizer,
    turns: Sequence[Turn],
    language: Language,
    placeholders: list[int],
    max_tokens: int | None,
    reserved: int,
) -> tuple[list[int], int]:
    """Drop the oldest turns until the prompt fits and `reserved` tokens remain; return (ids, dropped turns)."""
    marks = marks_of(language, turns[-1].question)
    turns = [*turns[:-1], replace(turns[-1], answer=None)]

    def encode_without(dropped: int) -> list[int]:
        kept = [merge_dropped(turns, dropped), *turns[dropped + 1 :]]
        return encode_around_images(tokenizer, write_turns(kept, marks), placeholders)

    first = 0
    if max_tokens is not None:
        _refuse_long_system_messages(tokenizer, turns, max_tokens - reserved)
        first = _oldest_turn_that_may_fit(tokenizer, turns, max_tokens - reserved)
    ids = encode_without(first)
    if max_tokens is None or len(ids) <= max_tokens - reserved:
        return ids, first
    image_tokens = len(placeholders) * sum(turn.image_count for turn in turns)
    return _drop_fewest(encode_without, first, len(turns) - 1, max_tokens - reserved, image_tokens)


def _refuse_long_system_messages(tokenizer: PlainTokenizer, turns: Sequence[Turn], room: int) -> None:
    """Raise `ContextLengthError` if the system messages before the last turn surely exceed `room` tokens.

    They are part of each prompt that is tried, so a huge text among them would be encoded many times.
    """
    text = "\n".join(turn.system for turn in turns[:-1])
    if len(text) >= SLICE and _room_after_slices(tokenizer, text, room) < 0:
        raise ContextLengthError(f"The system messages have {len(text)} characters, which do not fit: shorten them.")


def _room_after_slices(tokenizer: PlainTokenizer, text: str, room: int) -> int:
    """Return the `room` that whole slices of a text surely leave, counted from its end until it is below 0."""
    for end in range(len(text), SLICE - 1, -SLICE):
        room -= max(len(tokenizer.encode_plain(text[end - SLICE : end])) - SLICE_ERROR, 0)
        if room < 0:
            break
    return room


def _oldest_turn_that_may_fit(tokenizer: PlainTokenizer, turns: Sequence[Turn], room: int) -> int:
    """Return the index of the oldest turn that may be part of a prompt of `room` tokens.

    Counts slices of the newest text until `room` is surely exceeded, so that a huge dialogue is never encoded whole.

    Raises:
        ContextLengthError: the last question alone exceeds it.
    """
    text = ""
    for index in range(len(turns) - 1, -1, -1):
        text = f"{turns[index].question}\n{turns[index].answer or ''}\n{text}"
        room = _room_after_slices(tokenizer, text, room)
        if room < 0 and index == len(turns) - 1:
            raise ContextLengthError(
                f"The question has {len(turns[index].question)} characters, which do not fit: shorten it."
            )
        if room < 0:
            return index + 1
        text = text[: len(text) % SLICE]
    return 0


def _drop_fewest(
    encode_without: Callable[[int], list[int]], first: int, last: int, room: int, image_tokens: int
) -> tuple[list[int], int]:
    """Find the smallest number of dropped turns in `first + 1 .. last` that fits `room`; return (ids, number).

    Binary search, as dropping more turns never makes the prompt longer and a client may send thousands of turns.
    """
    fitting, low, high = encode_without(last), first + 1, last
    if len(fitting) > room:
        raise ContextLengthError(
            f"The question takes {len(fitting)} tokens ({image_tokens} of them placeholder tokens of images) and only "
            f"{max(room, 0)} fit: shorten it, or show fewer images."
        )
    while low < high:
        middle = (low + high) // 2
        ids = encode_without(middle)
        if len(ids) <= room:
            fitting, high = ids, middle
        else:
            low = middle + 1
    return fitting, high


def check_question(question: str) -> None:
    """Refuse a question without a visible character; control and format characters (zero width) are invisible.

    Raises:
        PromptError: the question is blank.
    """
    if all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in question):
        raise PromptError("The question is blank. Write a question.")


def _check_turns(turns: Sequence[Turn], answered: bool) -> None:
    if not turns:
        raise PromptError("The dialogue is empty. Ask a question.")
    for turn in turns[:-1]:
        if turn.answer is None:
            raise PromptError(f"The question {turn.question[:40]!r} has no answer: only the last one may be open.")
    if answered and turns[-1].answer is None:
        raise PromptError("The last question has no answer to learn from or to continue.")
    if not answered and turns[-1].answer is not None:
        raise PromptError("The dialogue ends with an answer. Add the next question.")
