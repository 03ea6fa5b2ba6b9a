"""Rows of a fine-tuning data file of any size, each read on demand.

    .json   upstream's list: [{"img": "a.png", "prompt": "question", "label": "answer"}, ...]
    .jsonl  one row per line: the same; or {"messages": [...]} as for chat models, images as image parts or as
            "<image>" in the text with the paths in "images"; or {"conversations": [{"from", "value"}], "image": ...}
    .csv    columns img, prompt, label

Memory holds two offsets per row. Image paths are relative to the file, or else to the working directory.
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
from ..files.untrusted_files import open_regular
from ..preprocessing.chat_messages import messages_to_turns
from ..preprocessing.prompt import Turn
from .text_encoding import require_utf8

IMAGE_MARK = "<image>"
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[{}\[\]]|[^\s,:{}\[\]"]++', re.DOTALL)
"""Tokens of JSON. No backtracking and a single token for an unclosed string keep scanning linear in time."""
SENDERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
COLUMNS = ("img", "prompt", "label")
LONGEST_PATH = 1024
MOST_BYTES = 1 << 26
"""Bytes of a row, which may contain images as base64."""
LONGEST_REASON = 500


class RowError(UsageError):
    """A row that cannot be used for training; the message names the file and the row."""


@dataclass(frozen=True)
class DataRow:
    """A chat that ends with an answer, and the paths or data URLs of its images in order."""

    turns: list[Turn]
    images: list[str]


class DataFile:
    """The rows of a file, indexed from 0; error messages count from 1.

    Raises:
        UsageError: the file does not exist, has an unknown format, or is not UTF-8.
        RowError: (when a row is read) it is not a chat, or an image is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UsageError(f"There is no data file {path}. Give a .json, .jsonl or .csv file.")
        scanners = {".json": _scan_json, ".jsonl": _scan_jsonl, ".csv": _scan_csv}
        if self.path.suffix.lower() not in scanners:
            raise UsageError(f"{path} has an unknown format. Give a .json (upstream's list), .jsonl or .csv file.")
        self.kind = self.path.suffix.lower()
        require_utf8(self.path)
        self.columns = _read_columns(self.path) if self.kind == ".csv" else []
        self.offsets = array("q", scanners[self.kind](self.path))
        if not self.offsets:
            raise UsageError(f"{path} has no rows. Add at least one with a question and an answer.")

    def __len__(self) -> int:
        return len(self.offsets) // 2

    def __getitem__(self, number: int) -> DataRow:
        if not 0 <= number < len(self):
            raise IndexError(number)
        start, end = self.offsets[2 * number : 2 * number + 2]
        if end - start > MOST_BYTES:
            raise RowError(f"{self.path}, row {number + 1}: it has more than {MOST_BYTES >> 20} MiB; shorten it.")
        with open_regular(self.path) as file:
            file.seek(start)
            raw = file.read(end - start)
        try:
            return _parse_row(self._parse(raw), self.path)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
            raise RowError(f"{self.path}, row {number + 1}: {_explain(error)}.") from error

    def __iter__(self) -> Iterator[DataRow]:
        return (self[number] for number in range(len(self)))

    def _parse(self, raw: bytes) -> Any:
        text = raw.decode("utf-8-sig")
        if self.kind != ".csv":
            return json.loads(text)
        values = next(csv.reader(text.splitlines(keepends=True), strict=True), [])
        if len(values) != len(self.columns):
            raise ValueError(f"it has {len(values)} fields, and the first line names {len(self.columns)}")
        return dict(zip(self.columns, values, strict=True))


def _explain(error: Exception) -> str:
    """Describe the fault of a row as a clause."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, UnicodeDecodeError):
        return f"its byte {error.start + 1} is not UTF-8"
    if isinstance(error, csv.Error):
        return f'a quote (") does not begin or end its field ({error}); double it if it is part of the text'
    return str(error)[:LONGEST_REASON].rstrip(".")


def _scan_json(path: Path) -> Iterator[int]:
    """Yield begin and end of every item of a JSON list without parsing it; `_parse_row` refuses non-objects."""
    with open_regular(path) as file:
        if path.stat().st_size == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            depth = 0
            for match in TOKEN.finditer(text):
                mark = match[0]
                if mark in (b"{", b"["):
                    if depth == 0 and mark == b"{":
                        raise UsageError(f"{path} is not a JSON list. Write [ before the first row, or name it .jsonl.")
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
                raise UsageError(f"{path} is not a complete JSON list: brackets are open at its end. Copy it again.")


def _scan_jsonl(path: Path) -> Iterator[int]:
    """Yield begin and end of every line that is not blank."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield from (offset, offset + len(line))
            offset += len(line)


def _scan_csv(path: Path) -> Iterator[int]:
    """Yield begin and end of every record; one may span lines."""
    offset = 0

    def lines() -> Iterator[str]:
        nonlocal offset
        with path.open("rb") as file:
            for line in file:
                offset += len(line)
                yield line.decode("utf-8", errors="replace")

    records = csv.reader(lines())
    next(records, None)
    start, number = offset, 0
    try:
        for record in records:
            if record:
                number += 1
                yield from (start, offset)
            start = offset
    except csv.Error as error:
        raise UsageError(
            f'{path}, row {number + 1}: a field does not end ({error}), because a quote (") is not closed. '
            "Close it, or double it if it is part of the text."
        ) from error


def _read_columns(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        columns = next(csv.reader(file), [])
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise UsageError(f"{path} has no column {missing[0]}. Name img, prompt and label in its first line.")
    return columns


def _parse_row(content: Any, path: Path) -> DataRow:
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    if "messages" in content or "conversations" in content:
        turns, sources = messages_to_turns(_messages(content))
    else:
        images = [content["img"]] if content.get("img") else []
        turns, sources = [Turn(_text(content["prompt"]), _text(content["label"]), len(images))], images
    if turns[-1].answer is None or not all(turn.answer for turn in turns):
        raise PromptError("a question has no answer")
    return DataRow(turns, [_resolve_image(source, path) for source in sources])


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a text; prompt and label must be texts")
    return value


def _messages(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Convert any of the three message formats to transformers' messages."""
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
        raise ValueError(f"{len(waiting)} entries of images have no {IMAGE_MARK} in the messages")
    return written


def _role(sender: Any) -> str:
    if sender not in SENDERS:
        raise ValueError(f"the sender {sender!r} is unknown, write human, gpt or system")
    return SENDERS[sender]


def _with_parts(message: dict[str, Any], waiting: list[Any]) -> dict[str, Any]:
    """Replace each `<image>` in a user message by an image part, taken from `waiting` in order."""
    text = message.get("content")
    if not isinstance(text, str) or IMAGE_MARK not in text or message.get("role") != "user":
        return message
    count = text.count(IMAGE_MARK)
    if count > len(waiting):
        raise ValueError(f"the text has more {IMAGE_MARK} than images has entries")
    parts = [{"type": "image", "image": waiting.pop(0)} for _ in range(count)]
    return {**message, "content": [*parts, {"type": "text", "text": text.replace(IMAGE_MARK, "").strip()}]}


def _resolve_image(source: Any, path: Path) -> str:
    """Find an image beside the data file or in the working directory; a data URL is returned unchanged."""
    source = source.get("path") if isinstance(source, dict) else source
    if not isinstance(source, str):
        raise ValueError("an image of the messages has no path")
    if source.startswith("data:"):
        return source
    candidates = (path.parent / source, Path(source))
    found = next((candidate for candidate in candidates if _is_file(candidate)), None)
    if found is None and len(source) > LONGEST_PATH:
        raise ValueError(
            f"the image {source[:24]}… ({len(source)} characters) is not a path; if it is base64, write "
            "data:image/png;base64, before it"
        )
    if found is None:
        raise ValueError(f"the image {source} is neither beside the data file nor in the working directory")
    return str(found)


def _is_file(path: Path) -> bool:
    """Return True if the file exists; a text that is too long for a file name does not."""
    try:
        return path.is_file()
    except OSError:
        return False
