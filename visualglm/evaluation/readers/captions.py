"""Captions: COCO's annotations, Flickr8k's and Flickr8k-CN's text files, and plain rows.

{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "..."}]}    COCO
a.jpg#zhc#0 一只狗在跑                                                      Flickr8k-CN (and a.jpg#0<tab>a dog)
{"image": "a.jpg", "captions": ["...", "..."]}                              one row per image, or per caption
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...datasets.row_files import RowError
from ...datasets.text_encoding import require_utf8
from ...errors import UsageError
from ...files.untrusted_files import open_regular
from ...preprocessing.describe_questions import DEFAULT_QUESTIONS
from ...preprocessing.prompt import language_of
from ..examples import Example, Examples, ImageFile
from .source import DataSource, Row, RowReader, one_image, text_field, texts_field

FLICKR_LINE = re.compile(r"(?P<image>[^#\s]+)#(?:[A-Za-z]\w*#)?\d+\s+(?P<caption>\S.*)")
TAGGED = re.compile(r"(\S+):[a-z]+\d?")
"""A word with its part of speech, as in Flickr8k-CN's segmented test file."""
LONGEST_LINE = 1 << 16


def read_captions(source: DataSource) -> Examples:
    """Read captions; those of one image become one example.

    Raises:
        UsageError: the file has another shape.
        RowError: a row has.
    """
    if source.data.suffix.lower() == ".txt":
        return _group(source, _flickr_rows(source))
    if is_coco(source.data):
        return _read_coco(source)
    return _group(source, _plain_rows(source))


def is_coco(path: Path) -> bool:
    """Return True for a JSON object whose rows are under "annotations"."""
    try:
        rows = RowReader(path, (), (b'"annotations"',)).file
    except UsageError:
        return False
    with open_regular(path) as file:
        begins_with_list = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    return path.suffix.lower() == ".json" and not begins_with_list and "caption" in rows[0]


def _read_coco(source: DataSource) -> Examples:
    images = dict(
        RowReader(source.data, (), (b'"images"',)).convert(lambda _, row: (row["id"], text_field(row, "file_name")))
    )
    captions: dict[object, list[str]] = {}

    def add(_: int, row: Row) -> None:
        if row["image_id"] not in images:
            raise ValueError(f"its image_id {row['image_id']} is not among the images")
        captions.setdefault(row["image_id"], []).append(text_field(row, "caption"))

    list(RowReader(source.data, (), (b'"annotations"',)).convert(add))
    rows = ((name, source.image(name), captions[id], None) for id, name in images.items() if id in captions)
    without = len(images) - len(captions)
    notes = [f"{without} images without a caption are left out"] if without else []
    return Examples(str(source.data), [_example(number, *row) for number, row in enumerate(rows)], notes)


def _flickr_rows(source: DataSource) -> Iterator[tuple[str, ImageFile, list[str], None]]:
    require_utf8(source.data)
    with open_regular(source.data) as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b"")):
            text = line.decode("utf-8", "replace").strip()
            found = FLICKR_LINE.fullmatch(text)
            if text and ("\ufffd" in text or found is None):
                reason = "it is not UTF-8" if "\ufffd" in text else "it is not IMAGE#NUMBER CAPTION"
                raise RowError(f"{source.data}, row {number + 1}: {reason}.")
            if found is not None:
                yield found["image"], source.image(found["image"]), [_without_tags(found["caption"])], None


def _without_tags(caption: str) -> str:
    """Drop the parts of speech if every word has one; they are letters behind a colon."""
    words = [TAGGED.fullmatch(word) for word in caption.split()]
    return "".join(word[1] for word in words if word) if all(words) else caption


def _plain_rows(source: DataSource) -> Iterator[tuple[str, object, list[str], str | None]]:
    def read(_: int, row: Row) -> tuple[str, object, list[str], str | None]:
        image, key = one_image(source, row)
        question = text_field(row, "question") if row.get("question") else None
        return key, image, list(texts_field(row, "captions", "caption", "references", "text", "answer")), question

    return RowReader(source.data, ("image", "caption", "text")).convert(read)


def _group(source: DataSource, rows: Iterator[tuple[str, object, list[str], str | None]]) -> Examples:
    """Join the captions of rows about the same image."""
    grouped: dict[str, tuple[str, object, list[str], str | None]] = {}
    for key, image, captions, question in rows:
        if key in grouped:
            grouped[key][2].extend(captions)
        else:
            grouped[key] = (key, image, captions, question)
    if not grouped:
        raise UsageError(f"{source.data} has no rows.")
    return Examples(str(source.data), [_example(number, *row) for number, row in enumerate(grouped.values())])


def _example(number: int, key: str, image: object, captions: list[str], question: str | None) -> Example:
    asked = question or DEFAULT_QUESTIONS[language_of(captions[0])]
    return Example(key, number, image, key, asked, tuple(captions))  # type: ignore[arg-type]
