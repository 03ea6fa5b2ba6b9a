"""Questions whose answer is yes or no: POPE, MME, and plain rows.

{"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there ...?", "label": "yes"}  POPE, lines
existence/000000006040.txt: "Is there ...? Please answer yes or no.<tab>Yes"                            MME, folders
{"image": "a.jpg", "question": "...", "answer": "yes"}                                                  plain
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...datasets.row_files import RowError
from ...errors import UsageError
from ...files.untrusted_files import read_bytes
from ..examples import Example, Examples, ImageFile
from ..yes_no import parse_label
from .source import DataSource, Row, RowReader, one_image, row_id, text_field

POPE_FILE = re.compile(r"(random|popular|adversarial)")
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")
MOST_TEXT_BYTES = 1 << 20


def read_yes_no_questions(source: DataSource) -> Examples:
    """Read a file of rows, or a folder: POPE's files, or MME's categories.

    Raises:
        UsageError: the file or folder has another shape.
        RowError: a row has, or its answer is neither yes nor no.
    """
    if not source.data.is_dir():
        return Examples(str(source.data), list(_rows(source, source.data)))
    files = sorted(file for file in source.data.glob("*.json*") if POPE_FILE.search(file.stem))
    if not files:
        return _read_mme(source)
    rows: list[Example] = []
    for file in files:
        rows += _rows(DataSource(file, source.images), file, len(rows), f"{file.stem}/")
    return Examples(str(source.data), rows)


def _rows(source: DataSource, file: Path, first: int = 0, prefix: str = "") -> Iterator[Example]:
    """Read the rows of one file; `prefix` keeps the ids of several files apart."""
    split = POPE_FILE.search(file.stem)

    def read(number: int, row: Row) -> Example:
        image, key = one_image(source, row)
        label = text_field(row, "label", "answer")
        truth = parse_label(label)
        if truth is None:
            raise ValueError(f"its answer {label[:40]!r} is neither yes nor no")
        facets = {"split": split[1]} if split else {}
        if row.get("category"):
            facets["category"] = str(row["category"])[:60]
        question, id = text_field(row, "question", "text"), prefix + row_id(row, number)
        return Example(id, first + number, image, key, question, (truth,), facets=facets)

    return RowReader(file, ("image", "question", "answer", "label")).convert(read)


def _read_mme(source: DataSource) -> Examples:
    rows: list[Example] = []
    for folder in sorted(path for path in source.data.iterdir() if path.is_dir()):
        texts = folder / "questions_answers_YN"
        for file in sorted((texts if texts.is_dir() else folder).glob("*.txt")):
            rows += _mme_file(source, folder, file, len(rows))
    if not rows:
        raise UsageError(
            f"{source.data} has neither POPE's files (*_random.json, ...) nor MME's folders of .txt files."
        )
    return Examples(str(source.data), rows)


def _mme_file(source: DataSource, folder: Path, file: Path, first: int) -> Iterator[Example]:
    try:
        lines = read_bytes(file, MOST_TEXT_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read ({error}). Save it as UTF-8.") from error
    candidates = [place / f"{file.stem}{suffix}" for place in (folder / "images", folder) for suffix in IMAGE_SUFFIXES]
    image = ImageFile(next(filter(Path.is_file, candidates), candidates[-len(IMAGE_SUFFIXES)]))
    key = f"{folder.name}/{file.stem}"
    for number, line in enumerate(line for line in lines if line.strip()):
        question, _, label = line.rpartition("\t")
        truth = parse_label(label)
        if not question.strip() or truth is None:
            raise RowError(f"{file}, row {number + 1}: it is not QUESTION<tab>Yes or No.")
        facets = {"category": folder.name}
        yield Example(f"{key}/{number}", first + number, image, key, question.strip(), (truth,), facets=facets)
