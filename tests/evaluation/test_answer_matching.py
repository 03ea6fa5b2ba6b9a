"""Which fact an answer states."""

from __future__ import annotations

import pytest

from visualglm.evaluation.answer_matching import facts, named_kind, same_fact, stated_fact
from visualglm.evaluation.scenes import answers
from visualglm.evaluation.scenes.concepts import kinds
from visualglm.evaluation.scenes.kinds import COLOURS, Language


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
        ("name", "en", "It is a scarf.", "scarf"),
        ("name", "en", "It is a zyx.", None),
        ("name", "en", "It is a hot dog.", "hot dog"),
        ("name", "en", "It is an orange fish.", "fish"),
        ("name", "en", "It is a mug.", "cup"),
        ("name", "en", "It is a cat and a dog.", None),
        ("name", "zh", "这是一头大象。", "大象"),
        ("name", "zh", "这是一个橙色的圆。", "圆形"),
        ("name", "zh", "里面是一只猫。", "猫"),
        ("odd", "en", "The dog is not a fruit.", "dog"),
        ("odd", "zh", "狗不是水果。", "狗"),
        ("size", "zh", "太阳更大。", "太阳"),
        ("category", "en", "It is a piece of clothing.", "piece of clothing"),
        ("category", "zh", "它是交通工具。", "交通工具"),
        ("any", "zh", "没有，图中没有水果。", "no"),
        ("same colour", "zh", "不一样，它们的颜色不同。", "no"),
        ("same colour", "zh", "一样，它们的颜色相同。", "yes"),
        ("follow-up", "zh", "它是棕色的。", "棕色"),
        ("follow-up", "en", "It is an animal.", "animal"),
        ("total", "zh", "图中有六个物体。", "六"),
        ("total", "en", "There are six objects.", "six"),
        ("relation", "en", "The left arrow is right of the car.", "right"),
        ("exists", "zh", "没有，图中没有圆形。", "no"),
        ("exists", "en", "Yes, there is a circle.", "yes"),
        ("relation", "en", "The car is left of the tree.", "left"),
        ("background", "en", "The background is the night sky.", "night sky"),
    ],
)
def test_stated(task: str, language: Language, answer: str, fact: str | None) -> None:
    assert stated_fact(task, language, answer) == fact


def test_both_languages_have_the_same_facts() -> None:
    for task in ("name", "colour", "total", "count", "where", "relation", "background", "category", "follow-up"):
        assert len(facts(task, "zh")) == len(facts(task, "en"))


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_name_is_found_in_its_answer(language: Language) -> None:
    for kind in kinds():
        for number, item_colour in ((1, None), (1, COLOURS[1])):
            phrase = answers.counted(number, kind, item_colour, language)
            answer = f"这是{phrase}。" if language == "zh" else f"It is {phrase}."
            assert named_kind(answer, language) == kind, answer


def test_the_same_fact_in_both_languages() -> None:
    assert same_fact("name", "这是一只猫。", "It is a cat.")
    assert not same_fact("name", "这是一只猫。", "It is a dog.")
    assert not same_fact("name", "？", "?")
    assert same_fact("relation", "猫在狗的左边。", "The cat is left of the dog.")
