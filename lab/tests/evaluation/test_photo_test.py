"""The photograph test: its list is whole sources that never train, its questions are even, faults of form are found."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from visualglm.evaluation.scenes.concepts import by_key
from visualglm_lab.evaluation.album_images import AlbumImages
from visualglm_lab.evaluation.photo_test import (
    ASKED_IMAGES,
    FIGURES,
    FORMS,
    LIST,
    QUESTIONS,
    RECIPES,
    SOURCES,
    fault_of_form,
    photographs,
    read_list,
)


def test_every_listed_photograph_is_kept_out_of_training_and_none_of_imagenet_is_listed() -> None:
    with (RECIPES / "labels.tsv").open(encoding="utf-8", newline="") as file:
        labels = {row["file"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    listed = read_list(LIST)
    assert len(listed) >= 500 and {row["source"] for row in listed} == set(SOURCES)
    for row in listed:
        assert labels[row["file"]]["split"] == "photos" and labels[row["file"]]["style"] == "photo"
        assert set(row["names"].split(";")) <= set(by_key())
    assert not [file for file in labels if "imagenet" in file]
    trained = [f for f, row in labels.items() if row["style"] == "photo" and row["split"] != "photos"]
    assert [file for file in trained if any(source in labels[file]["package"] for source in SOURCES)] == []


def test_questions_are_even() -> None:
    rows = read_list(QUESTIONS)
    assert len(rows) == 2 * ASKED_IMAGES and len({row["photo"] for row in rows}) == ASKED_IMAGES
    assert Counter(row["language"] for row in rows) == {"zh": ASKED_IMAGES, "en": ASKED_IMAGES}
    assert set(Counter(row["form"] for row in rows).values()) == {2 * ASKED_IMAGES // len(FORMS)}
    assert max(int(row["photo"]) for row in rows) == len(read_list(LIST)) - 1


def test_figures_are_of_the_list() -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert figures["photographs"] == len(read_list(LIST)) == figures["names, zh"]["all"]["n"]
    assert figures["500 answers"]["n"] == len(read_list(QUESTIONS))


@pytest.mark.parametrize(
    "answer, language, fault",
    [
        ("There is a橙色 car.", "en", "foreign words"),
        ("There is a dog.", "en", ""),
        ("图中有一只dog。", "zh", "foreign words"),
        ("图中有字母A。", "zh", ""),
        ("红色的红色的红色的红色的圆。", "zh", "loop"),
        ("It is a red red red red red dog.", "en", "loop"),
        ("左边有一只猫，右边有一只猫。", "zh", ""),
    ],
)
def test_faults_of_form(answer: str, language: str, fault: str) -> None:
    assert fault_of_form(answer, "zh" if language == "zh" else "en") == fault


def test_photographs_are_selected_by_source(album: Path) -> None:
    """The tiny album's photographs have a source of their own, which is not on the list."""
    assert photographs(AlbumImages(album)) == []
