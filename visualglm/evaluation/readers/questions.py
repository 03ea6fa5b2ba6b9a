"""Questions with short answers: VQAv2, GQA, and plain rows.

{"questions": [{"image_id": 1, "question": "...", "question_id": 10}]} and, in a file of its own (--answers),
{"annotations": [{"question_id": 10, "answers": [{"answer": "yes"}, ...]}]}                          VQAv2
{"201307251": {"imageId": "2354786", "question": "...", "answer": "..."}, ...}                       GQA
{"image": "a.jpg", "question": "...", "answer": "..."} or "answers": [...]                           plain
"""

from __future__ import annotations

import json
import re

from ...datasets.row_files import RowError
from ...errors import UsageError
from ...files.untrusted_files import open_regular, read_json
from ..examples import Example, Examples
from .source import DataSource, Row, RowReader, one_image, row_id, text_field, texts_field

MOST_GQA_BYTES = 1 << 30
BEGINNING = 1 << 16
SUBSET = re.compile(rb'"data_subtype"\s*:\s*"([\w-]{1,40})"')


def read_questions(source: DataSource) -> Examples:
    """Read questions with their answers.

    Raises:
        UsageError: the file has another shape, or VQAv2's answers are missing.
        RowError: a row has another shape, or no answer.
    """
    if source.data.suffix.lower() == ".json":
        with open_regular(source.data) as file:
            beginning = file.read(BEGINNING)
        if b'"questions"' in beginning:
            return _read_vqa(source, beginning)
        if re.match(rb'\s*\{\s*"[^"]{1,40}"\s*:\s*\{', beginning.removeprefix(b"\xef\xbb\xbf")):
            return _read_gqa(source)
    rows = RowReader(source.data, ("image", "question", "answer"))
    return Examples(str(source.data), list(rows.convert(lambda number, row: _plain(source, number, row))))


def _read_vqa(source: DataSource, beginning: bytes) -> Examples:
    if source.answers is None:
        raise UsageError(f"{source.data} has questions alone. Name the annotations file with --answers.")
    answers = dict(
        RowReader(source.answers, (), (b'"annotations"',)).convert(
            lambda _, row: (row["question_id"], texts_field(row, "answers"))
        )
    )
    subset = SUBSET.search(beginning)
    prefix = f"COCO_{subset[1].decode()}_" if subset else "COCO_val2014_"

    def read(number: int, row: Row) -> Example:
        asked = row["question_id"]
        if asked not in answers:
            raise ValueError(f"{source.answers} has no answer to question_id {asked}")
        name = f"{int(row['image_id']):012d}.jpg"
        image = source.image(f"{prefix}{name}", name)
        return Example(str(asked), number, image, name, text_field(row, "question"), answers[asked])

    rows = RowReader(source.data, (), (b'"questions"',)).convert(read)
    return Examples(str(source.data), list(rows))


def _read_gqa(source: DataSource) -> Examples:
    try:
        document = read_json(source.data, MOST_GQA_BYTES)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise UsageError(f"{source.data} cannot be read ({error}). Copy it again.") from error
    examples = []
    for number, (id, row) in enumerate(document.items()):
        try:
            name = text_field(row, "imageId") + ".jpg"
            facets = {"type": str(row["types"]["structural"])} if isinstance(row.get("types"), dict) else {}
            answer = (text_field(row, "answer"),)
            question = text_field(row, "question")
            examples.append(Example(id, number, source.image(name), name, question, answer, facets=facets))
        except KeyError as error:
            raise RowError(f"{source.data}, row {number + 1} ({id}): {error} is missing.") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise RowError(f"{source.data}, row {number + 1} ({id}): {error}.") from error
    return Examples(str(source.data), examples)


def _plain(source: DataSource, number: int, row: Row) -> Example:
    image, key = one_image(source, row)
    answers = texts_field(row, "answers", "answer")
    return Example(row_id(row, number), number, image, key, text_field(row, "question", "text"), answers)
