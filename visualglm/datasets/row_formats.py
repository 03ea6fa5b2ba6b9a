"""Rows as other tools write them become chats.

In: one row as a dictionary. Out: `Turn`s and the image sources in order, unopened. `FORMATS` lists what is known.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..preprocessing.chat_messages import messages_to_turns
from ..preprocessing.describe_questions import DEFAULT_QUESTIONS
from ..preprocessing.prompt import Turn, language_of

Row = Mapping[str, Any]
IMAGE_MARK = "<image>"
IMAGE_FIELDS = ("images", "image", "img", "path", "file_name", "image_path")
OTHER_MEDIA = ("videos", "video", "audios", "audio")
"""Fields of ms-swift and of LLaVA for what the model cannot read."""
QUESTION_FIELDS = ("question", "query", "prompt", "instruction")
SENDERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MOST_SHOWN = 8
"""Fields of an unknown row that its error names."""
LONGEST_SHOWN = 30


@dataclass(frozen=True)
class RowFormat:
    """A format: the tool that writes it, the fields that a row must have, and the function to messages.

    The field "image" stands for any of `IMAGE_FIELDS`.
    """

    tool: str
    fields: tuple[str, ...]
    to_messages: Callable[[Row], list[dict[str, Any]]]

    def missing(self, row: Row) -> list[str]:
        """List the required fields that the row does not have."""
        return [field for field in self.fields if not _has(row, field)]

    def __str__(self) -> str:
        return f"{', '.join(self.fields)} ({self.tool})"


def row_to_turns(row: Row) -> tuple[list[Turn], list[Any]]:
    """Return the turns of a row, the last one open if it has no answer, and its image sources.

    Raises:
        ValueError: the format is unknown, a field has a wrong type, images and `<image>` do not match, or the row has a
            video or a sound.
    """
    other = next((field for field in OTHER_MEDIA if row.get(field)), None)
    if other is not None:
        raise ValueError(f"it has {other}, but the model reads only images and text")
    known = next((candidate for candidate in FORMATS if not candidate.missing(row)), None)
    if known is None:
        raise ValueError(describe_unknown(row))
    images = image_sources({"img": row["img"]} if row.get("img") is not None else row)
    if known.tool == UPSTREAM:  # upstream knows no <image>: the text is kept as it is
        return [Turn(_text(row["prompt"]), _text(row["label"]), len(images))], images
    return messages_to_turns(_place_images(known.to_messages(row), images))


def image_and_question(row: Row) -> tuple[Any, str | None]:
    """Return the image source of a row to caption, and the question that the row asks about it, if any.

    Raises:
        ValueError: the row does not have one image, or its question is not a text.
    """
    images = image_sources(row)
    if len(images) != 1:
        found = f"it has {len(images)} images" if images else f"it names no image; {_shown_fields(row)}"
        raise ValueError(
            f'{found}; write {{"image": "a.png", "question": "..."}}, or image_path, img, path or file_name'
        )
    asked = next((row[field] for field in QUESTION_FIELDS if row.get(field) is not None), None)
    if asked is not None and not isinstance(asked, str):
        raise ValueError(f"the question {str(asked)[:LONGEST_SHOWN]!r} is not a text")
    if asked and row.get("instruction") is asked:
        asked = _instruction(row)
    for name in ("messages", "conversations") if asked is None else ():
        if row.get(name):
            asked = next((turn.question for turn in messages_to_turns(_chat(row, name))[0]), None)
            break
    return images[0], (asked or "").replace(IMAGE_MARK, "").strip() or None


def image_sources(row: Row) -> list[Any]:
    """Return the sources in the first image field that is not empty: one, or a list of them.

    Hugging Face's {bytes, path} becomes the path."""
    value: Any = next((row[field] for field in IMAGE_FIELDS if row.get(field)), [])
    values = value if isinstance(value, (list, tuple)) else [value]
    return [one.get("path") or one.get("url") if isinstance(one, dict) else one for one in values]


def describe_unknown(row: Row) -> str:
    """Say in a clause which fields a row of no known format has, which formats are known, and the nearest."""
    nearest = max(FORMATS, key=lambda candidate: _likeness(candidate, list(row)[:MOST_SHOWN]))
    known = "; ".join(map(str, FORMATS))
    return (
        f"{_shown_fields(row)}, which is no known format; the nearest is {nearest}, where "
        f"{' and '.join(nearest.missing(row))} is missing or null; known are: {known}"
    )


def _shown_fields(row: Row) -> str:
    names = [str(name)[:LONGEST_SHOWN] for name in list(row)[:MOST_SHOWN]]
    return f"its fields are {', '.join(names)}{' …' * (len(row) > MOST_SHOWN)}" if names else "it has no fields"


def _likeness(candidate: RowFormat, names: list[str]) -> float:
    """Return the mean over the required fields of the similarity to the most similar name, 0..1."""
    total = sum(
        max((difflib.SequenceMatcher(None, field, name[:LONGEST_SHOWN].lower()).ratio() for name in names), default=0)
        for field in candidate.fields
    )
    return total / len(candidate.fields)


def _has(row: Row, field: str) -> bool:
    if field == "image":
        return bool(image_sources(row))
    return row.get(field) is not None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{repr(value)[:60]} is not a text; questions and answers must be texts")
    return value


def _chat(row: Row, name: str) -> list[dict[str, Any]]:
    """Read a list of {role, content} or {from, value}."""
    messages = row[name]
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError(f"{name} is empty or not a list, and a row needs a question and an answer")
    return [*_system(row), *(_message(message) for message in messages)]


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ValueError("a message is not a JSON object")
    if "from" not in message:
        return message
    if message["from"] not in SENDERS:
        raise ValueError(f"the sender {message['from']!r} is unknown, write human, gpt or system")
    return {"role": SENDERS[message["from"]], "content": message.get("value")}


def _system(row: Row) -> list[dict[str, Any]]:
    return [{"role": "system", "content": _text(row["system"])}] if row.get("system") else []


def _exchanges(row: Row, question: str, answer: Any) -> list[dict[str, Any]]:
    """Build the messages of a row with a question, an answer, and pairs of earlier ones in `history`."""
    history = row.get("history") or []
    if not isinstance(history, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in history):
        raise ValueError("history is not a list of [question, answer]")
    texts = [_text(text) for pair in [*history, (question, answer)] for text in pair]
    roles = ("user", "assistant")
    return [*_system(row), *({"role": roles[n % 2], "content": text} for n, text in enumerate(texts))]


def _pair(question: str, answer: str) -> Callable[[Row], list[dict[str, Any]]]:
    return lambda row: _exchanges(row, row[question], row[answer])


def _instruction(row: Row) -> str:
    """Join alpaca's instruction and its input, if there is one, by a line break."""
    context = row.get("input") or ""
    return f"{_text(row['instruction'])}\n{_text(context)}" if context else _text(row["instruction"])


def _alpaca(row: Row) -> list[dict[str, Any]]:
    return _exchanges(row, _instruction(row), row["output"])


def _caption(field: str) -> Callable[[Row], list[dict[str, Any]]]:
    """Build the messages of a caption: the question asks to describe the image, in the caption's language."""
    return lambda row: _exchanges({}, DEFAULT_QUESTIONS[language_of(_text(row[field]))], row[field])


UPSTREAM = "VisualGLM"
FORMATS = (
    RowFormat("OpenAI, transformers, ms-swift", ("messages",), lambda row: _chat(row, "messages")),
    RowFormat("LLaVA, ShareGPT", ("conversations",), lambda row: _chat(row, "conversations")),
    RowFormat(UPSTREAM, ("prompt", "label"), _pair("prompt", "label")),
    RowFormat("ms-swift", ("query", "response"), _pair("query", "response")),
    RowFormat("alpaca", ("instruction", "output"), _alpaca),
    RowFormat("questions", ("question", "answer"), _pair("question", "answer")),
    RowFormat("Hugging Face", ("image", "text"), _caption("text")),
    RowFormat("captions", ("image", "caption"), _caption("caption")),
)
"""In the order in which a row is compared with them."""

KNOWN_FIELDS = (
    *dict.fromkeys(field for known in FORMATS for field in known.fields),
    *(*IMAGE_FIELDS, *QUESTION_FIELDS, "input", "history", "system"),
)


def _place_images(messages: list[dict[str, Any]], images: list[Any]) -> list[dict[str, Any]]:
    """Replace each `<image>` of the user messages by an image part, in order.

    Without any `<image>`, all images belong to the first user message, as in ms-swift.
    """
    waiting = list(images)
    marked = any(_marks(message) for message in messages)
    placed = []
    for message in messages:
        count = _marks(message)
        if not marked and message.get("role") == "user" and isinstance(message.get("content"), str):
            count = len(waiting)
        if count > len(waiting):
            raise ValueError(f"the text has more {IMAGE_MARK} than images has entries")
        placed.append(_with_images(message, [waiting.pop(0) for _ in range(count)]) if count else message)
    if waiting:
        raise ValueError(f"{len(waiting)} entries of images have no {IMAGE_MARK} in the messages")
    return placed


def _marks(message: dict[str, Any]) -> int:
    """Count the `<image>` in a user message."""
    text = message.get("content")
    return text.count(IMAGE_MARK) if isinstance(text, str) and message.get("role") == "user" else 0


def _with_images(message: dict[str, Any], images: list[Any]) -> dict[str, Any]:
    parts = [{"type": "image", "image": image} for image in images]
    return {
        **message,
        "content": [*parts, {"type": "text", "text": message["content"].replace(IMAGE_MARK, "").strip()}],
    }
