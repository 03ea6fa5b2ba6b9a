"""A data file of any size -> its rows, each read when it is asked for.

    .json   upstream's list: [{"img": "a.png", "prompt": "question", "label": "answer"}, ...]
    .jsonl  a row a line: the same; or {"messages": [...]} as chat models are fine-tuned, pictures as image parts or as
            "<image>" in the text with the paths in "images"; or {"conversations": [{"from", "value"}], "image": ...}
    .csv    columns img, prompt, label

Memory holds one place per row. Paths of pictures are relative to the file, or else to the working directory. Knows
nothing about ids or pixels.
"""

from __future__ import annotations

import csv
import json
import mmap
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PromptError, UsageError
from ..files.reading import open_regular
from ..preprocessing.chat_messages import messages_to_turns
from ..preprocessing.prompt import Turn
from .text_encoding import require_utf8

IMAGE_MARK = "<image>"
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[{}\[\]]|[^\s,:{}\[\]"]++', re.DOTALL)
"""Never takes a byte back, and a text that does not end is one token: linear in time, and no memory for a text."""
SENDERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
COLUMNS = ("img", "prompt", "label")
LONGEST_PATH = 1024
MOST_BYTES = 1 << 26
"""Of a row, whose pictures may be in it as base64."""
LONGEST_REASON = 500


class RowError(UsageError):
    """A row that cannot be learned from; the message names the file and the row."""


@dataclass(frozen=True)
class DataRow:
    """A dialogue that ends with an answer, and the sources of its pictures in order."""

    turns: list[Turn]
    pictures: list[str]


class DataFile:
    """The rows of a file, by number from 0; messages count from 1.

    Raises:
        UsageError: there is no such file, it is of no known kind, or not written in UTF-8.
        RowError: (by row) it is no dialogue, or a picture is not there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UsageError(f"There is no data file {path}: give a .json, .jsonl or .csv file.")
        kinds = {".json": _in_list, ".jsonl": _in_lines, ".csv": _in_table}
        if self.path.suffix.lower() not in kinds:
            raise UsageError(f"{path} is of no known kind: give a .json (upstream's list), .jsonl or .csv file.")
        self.kind = self.path.suffix.lower()
        require_utf8(self.path)
        self.columns = _columns(self.path) if self.kind == ".csv" else []
        self.places = array("q", kinds[self.kind](self.path))
        if not self.places:
            raise UsageError(f"{path} has no rows: a row is a question, an answer, and a picture if there is one.")

    def __len__(self) -> int:
        return len(self.places) // 2

    def __getitem__(self, number: int) -> DataRow:
        if not 0 <= number < len(self):
            raise IndexError(number)
        start, end = self.places[2 * number : 2 * number + 2]
        if end - start > MOST_BYTES:
            raise RowError(f"{self.path}, row {number + 1}: it has more than {MOST_BYTES >> 20} MiB; shorten it.")
        with open_regular(self.path) as file:
            file.seek(start)
            raw = file.read(end - start)
        try:
            return _row(self._parsed(raw), self.path)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
            raise RowError(f"{self.path}, row {number + 1}: {_reason(error)}.") from error

    def __iter__(self) -> Iterator[DataRow]:
        return (self[number] for number in range(len(self)))

    def _parsed(self, raw: bytes) -> Any:
        text = raw.decode("utf-8-sig")
        if self.kind != ".csv":
            return json.loads(text)
        values = next(csv.reader(text.splitlines(keepends=True), strict=True), [])
        if len(values) != len(self.columns):
            raise ValueError(f"it has {len(values)} fields, and the first line names {len(self.columns)}")
        return dict(zip(self.columns, values, strict=True))


def _reason(error: Exception) -> str:
    """What is wrong with a row, as a clause."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, UnicodeDecodeError):
        return f"its byte {error.start + 1} is no UTF-8"
    if isinstance(error, csv.Error):
        return f'a quote (") does not begin or end its field ({error}); write it twice where it is meant'
    return str(error)[:LONGEST_REASON].rstrip(".")


def _in_list(path: Path) -> Iterator[int]:
    """Begin and end of every item of a JSON list, without holding the file; `_row` refuses what is no object."""
    with open_regular(path) as file:
        if path.stat().st_size == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            depth = 0
            for match in TOKEN.finditer(text):
                mark = match[0]
                if mark in (b"{", b"["):
                    if depth == 0 and mark == b"{":
                        raise UsageError(f"{path} is no list: write [ before the first row, or name it .jsonl.")
                    if depth == 1:
                        yield match.start()
                    depth += 1
                elif mark in (b"}", b"]"):
                    depth -= 1
                    if depth == 1:
                        yield match.end()
                elif depth == 1:
                    yield from match.span()
            if depth != 0:
                raise UsageError(f"{path} is no whole JSON list: brackets are open at its end. Copy it again.")


def _in_lines(path: Path) -> Iterator[int]:
    place = 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield from (place, place + len(line))
            place += len(line)


def _in_table(path: Path) -> Iterator[int]:
    """Begin and end of every record; one may span lines."""
    place = 0

    def lines() -> Iterator[str]:
        nonlocal place
        with path.open("rb") as file:
            for line in file:
                place += len(line)
                yield line.decode("utf-8", errors="replace")

    records = csv.reader(lines())
    next(records, None)
    start, number = place, 0
    try:
        for record in records:
            if record:
                number += 1
                yield from (start, place)
            start = place
    except csv.Error as error:
        raise UsageError(
            f'{path}, row {number + 1}: a field does not end ({error}), so a quote (") is opened and not closed: '
            "close it, or write it twice where it is meant."
        ) from error


def _columns(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        columns = next(csv.reader(file), [])
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise UsageError(f"{path} has no column {missing[0]}: its first line must name img, prompt and label.")
    return columns


def _row(content: Any, path: Path) -> DataRow:
    if not isinstance(content, dict):
        raise ValueError("it is no object with fields")
    if "messages" in content or "conversations" in content:
        turns, sources = messages_to_turns(_messages(content))
    else:
        pictures = [content["img"]] if content.get("img") else []
        turns, sources = [Turn(_text(content["prompt"]), _text(content["label"]), len(pictures))], pictures
    if turns[-1].answer is None or not all(turn.answer for turn in turns):
        raise PromptError("a question has no answer to learn")
    return DataRow(turns, [_found(source, path) for source in sources])


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text; prompt and label are texts")
    return value


def _messages(content: dict[str, Any]) -> list[dict[str, Any]]:
    """transformers' messages, from the three ways of writing them."""
    images = content.get("images", content.get("image")) or []
    waiting = [images] if isinstance(images, (str, dict)) else list(images)
    name = "conversations" if content.get("messages") is None else "messages"
    messages = content[name]
    if not messages:
        raise ValueError(f"{name} is empty, and a row needs a question and an answer")
    if name == "conversations":
        messages = [{"role": _role(turn["from"]), "content": turn["value"]} for turn in messages]
    written = [_with_parts(message, waiting) for message in messages]
    if waiting:
        raise ValueError(f"{len(waiting)} pictures of images have no {IMAGE_MARK} in the messages")
    return written


def _role(sender: Any) -> str:
    if sender not in SENDERS:
        raise ValueError(f"the sender {sender!r} is unknown, write human, gpt or system")
    return SENDERS[sender]


def _with_parts(message: dict[str, Any], waiting: list[Any]) -> dict[str, Any]:
    """The message with each `<image>` of its text as a part of its own, in order."""
    text = message.get("content")
    if not isinstance(text, str) or IMAGE_MARK not in text or message.get("role") != "user":
        return message
    count = text.count(IMAGE_MARK)
    if count > len(waiting):
        raise ValueError(f"the text has more {IMAGE_MARK} than images has pictures")
    parts = [{"type": "image", "image": waiting.pop(0)} for _ in range(count)]
    return {**message, "content": [*parts, {"type": "text", "text": text.replace(IMAGE_MARK, "").strip()}]}


def _found(source: Any, path: Path) -> str:
    """A picture's path, relative to the data file or the working directory; a data URL stays."""
    source = source.get("path") if isinstance(source, dict) else source
    if not isinstance(source, str):
        raise ValueError("a picture of the messages has no path")
    if source.startswith("data:"):
        return source
    places = (path.parent / source, Path(source))
    found = next((place for place in places if _is_file(place)), None)
    if found is None and len(source) > LONGEST_PATH:
        raise ValueError(
            f"the picture {source[:24]}… ({len(source)} characters) is no path; if it is base64, write "
            "data:image/png;base64, before it"
        )
    if found is None:
        raise ValueError(f"the picture {source} is neither beside the data file nor in the working directory")
    return str(found)


def _is_file(place: Path) -> bool:
    """Whether there is one; a text that is too long for a name is none."""
    try:
        return place.is_file()
    except OSError:
        return False
