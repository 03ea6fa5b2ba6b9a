"""The table of the stem's classes: every class once, with names that belong to no other kind."""

from __future__ import annotations

import re
from collections import Counter

import torch

from visualglm.evaluation.scenes.concepts import by_key, kinds
from visualglm.evaluation.scenes.kinds import CATEGORIES
from visualglm.network.stem import CLASSES
from visualglm_lab.training.imagenet_classes import class_kinds, kind_probabilities, named_kinds


def test_every_class_has_a_row_and_most_have_a_kind() -> None:
    assert len(class_kinds()) == CLASSES
    assert sum(kind is not None for kind in class_kinds()) > 850
    by_class = {index: kind.key for index, kind in enumerate(class_kinds()) if kind is not None}
    assert [by_class[index] for index in (1, 207, 340, 817, 954)] == [
        "goldfish",
        "dog",
        "zebra",
        "sports car",
        "banana",
    ]


def test_new_kinds_are_complete_and_share_no_name_with_others() -> None:
    new = [kind for kind in named_kinds() if kind.key not in by_key()]
    assert len(new) > 200
    for kind in new:
        assert kind.category in CATEGORIES and kind.plural and kind.measure
        assert re.fullmatch(r"[一-鿿]+", kind.zh[0]) and re.fullmatch(r"[a-z' -]+", kind.en[0])
    names = Counter(name for kind in (*kinds(), *new) for name in {*kind.zh, *kind.en})
    assert [kind.key for kind in new if names[kind.zh[0]] > 1 or names[kind.en[0]] > 1] == []


def test_classes_of_one_kind_add_up() -> None:
    probabilities = torch.full((2, CLASSES), 1 / CLASSES)
    found = kind_probabilities(probabilities)
    dog = [kind.key for kind in named_kinds()].index("dog")
    dogs = sum(kind is not None and kind.key == "dog" for kind in class_kinds())
    assert dogs > 100 and torch.isclose(found[0, dog], torch.tensor(dogs / CLASSES))
    assert found.sum() < probabilities.sum()
