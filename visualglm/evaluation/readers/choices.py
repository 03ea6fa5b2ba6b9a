"""Multiple choice: MMBench's and CCBench's TSV, CMMMU's rows, and plain rows.

index, question, hint, A, B, C, D, answer, category, image (base64, or the index of a row with the same image)
{"id": 1, "type": "选择", "question": "<img=\"1.png\"> ...", "option1": "...", "image_1": "1.png", "answer": "A"}  CMMMU
{"image": "a.jpg", "question": "...", "options": ["...", "..."], "answer": "B"}       plain: letter, index or text
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from ..examples import Example, Examples
from ..tasks.choice import LETTERS
from .source import DataSource, Row, RowReader, base64_image, one_image, row_id, text_field

CHOICE_TYPES = ("选择", "multiple-choice", "multiple_choice", "choice")
IMAGE_MARK = re.compile(r"<img\s*=[^>]{0,200}>|<image(?: \d)?>")
SEVERAL_LETTERS = re.compile(r"[A-J](?:[,，、 ]*[A-J])+")
COLUMNS = ("index", "question", "a", "b", "answer", "image", "category")
LONGEST_IMAGE = 1 << 26
"""Characters of an image as base64."""
LONGEST_INDEX = 20
"""Characters: a longer text in MMBench's image column is an image."""


def read_choices(source: DataSource) -> Examples:
    """Read questions with options and the letter of the right one.

    Raises:
        UsageError: the file has another shape.
        RowError: a row has another shape, or its answer is not among its options.
    """
    rows = RowReader(source.data, COLUMNS, longest_field=LONGEST_IMAGE)
    skipped: Counter[str] = Counter()
    encoded = _base64_images(rows) if rows.file.header is not None else {}
    examples = list(rows.convert(lambda number, row: _read(source, number, row, rows, encoded, skipped)))
    notes = [f"{count} rows are left out: {reason}" for reason, count in skipped.items()]
    return Examples(str(source.data), examples, notes)


def _base64_images(rows: RowReader) -> dict[str, int]:
    """Map the index of each row with an image of its own to the row's number."""
    found = rows.convert(
        lambda number, row: (row_id(row, number), number) if len(str(row.get("image") or "")) > LONGEST_INDEX else None
    )
    return dict(found)


def _read(
    source: DataSource, number: int, row: Row, rows: RowReader, encoded: dict[str, int], skipped: Counter[str]
) -> Example | None:
    if row.get("type") is not None and str(row["type"]) not in CHOICE_TYPES:
        skipped["they are not multiple choice"] += 1
        return None
    if row.get("image_2"):
        skipped["they have several images"] += 1
        return None
    options = _options(row)
    if SEVERAL_LETTERS.fullmatch(str(row.get("answer"))):
        skipped["they have several right options"] += 1
        return None
    if not str(row.get("answer") or "").strip():
        raise ValueError("its answer is missing; a test split is scored by its publisher alone")
    image, key = _image(source, number, row, rows, encoded)
    question = IMAGE_MARK.sub("", text_field(row, "question")).strip()
    if row.get("hint") and str(row["hint"]).lower() != "nan":
        question = f"{str(row['hint']).strip()}\n{question}"
    facets = {name: str(row[name])[:60] for name in ("category", "l2_category", "subcategory") if row.get(name)}
    letter = _letter(row["answer"], options)
    return Example(row_id(row, number), number, image, key, question, (letter,), tuple(options), facets)


def _options(row: Row) -> list[str]:
    """Return the options: columns a, b, ..., fields option1, option2, ..., or a list."""
    if isinstance(row.get("options"), list):
        options = [str(option) for option in row["options"]]
    else:
        lettered = [row.get(letter.lower(), row.get(letter)) for letter in LETTERS]
        numbered = [row.get(f"option{number}") for number in range(1, len(LETTERS) + 1)]
        given = lettered if any(lettered) else numbered
        options = [str(option) for option in given if option is not None and str(option).strip() not in ("", "nan")]
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"it has {len(options)} options, and 2 to {len(LETTERS)} are needed")
    return options


def _letter(answer: object, options: list[str]) -> str:
    """Return the letter of the right option, named by letter, index from 0, or text.

    Raises:
        ValueError: it is not among the options.
    """
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return LETTERS[answer]
    text = str(answer).strip()
    if len(text) == 1 and text.upper() in LETTERS[: len(options)]:
        return text.upper()
    if text in options:
        return LETTERS[options.index(text)]
    raise ValueError(f"its answer {text[:40]!r} is not among its {len(options)} options")


def _image(
    source: DataSource, number: int, row: Row, rows: RowReader, encoded: dict[str, int]
) -> tuple[Callable[[], bytes], str]:
    if rows.file.header is not None:
        return _table_image(source, number, str(row.get("image") or ""), rows, encoded)
    return one_image(source, row if row.get("image_1") is None else {"image": row["image_1"]})


def _table_image(
    source: DataSource, number: int, text: str, rows: RowReader, encoded: dict[str, int]
) -> tuple[Callable[[], bytes], str]:
    """Return an image of MMBench's table; it is read from the file when it is needed, so that none stays in memory."""
    if not text:
        raise ValueError("its image is missing")
    if len(text) <= LONGEST_INDEX and text not in encoded:
        if "." in text:
            return source.image(text), text
        raise ValueError(f"its image {text!r} is neither base64 nor the index of a row with an image")
    owner = encoded[text] if len(text) <= LONGEST_INDEX else number
    return lambda: base64_image(str(rows.file[owner]["image"]))(), f"row {owner}"
