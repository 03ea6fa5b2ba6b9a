"""Which fact an answer states."""

from __future__ import annotations

import pytest

from visualglm.evaluation.judging import facts, stated
from visualglm.scenes.vocabulary import Language


@pytest.mark.parametrize(
    ("task", "language", "answer", "fact"),
    [
        ("colour", "zh", "圆形是红色的。", "红色"),
        ("colour", "en", "The circle is red or blue.", None),
        ("count", "zh", "图中有一个十字形。", "一"),
        ("count", "zh", "图中没有十字形。", "零"),
        ("count", "en", "There is no star.", "no"),
        ("count", "en", "There are three stars.", "three"),
        ("where", "zh", "太阳在左上方。", "左上方"),
        ("where", "en", "The sun is in the top left.", "in the top left"),
        ("name", "zh", "这是一个正方形。", "正方形"),
        ("name", "en", "It is a scarf.", None),
        ("exists", "zh", "没有，图中没有圆形。", "no"),
        ("exists", "en", "Yes, there is a circle.", "yes"),
        ("relation", "en", "The car is left of the tree.", "left"),
        ("background", "en", "The background is the night sky.", "night sky"),
    ],
)
def test_stated(task: str, language: Language, answer: str, fact: str | None) -> None:
    assert stated(task, language, answer) == fact


def test_both_languages_have_the_same_facts() -> None:
    for task in ("name", "colour", "total", "count", "where", "relation", "background", "follow-up"):
        assert len(facts(task, "zh")) == len(facts(task, "en"))
