"""The 1000 classes of the stem's classifier as kinds of objects.

`lab/recipes/mini/imagenet_classes.tsv` was written by hand, one class a row: a kind of `concepts.tsv`, a new kind with
its names, or nothing where a class is too rare, or no thing. Animals and the like go to the wider kind (118 breeds to
"dog"), so a class may have the name of a family.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from visualglm.evaluation.scenes.concepts import by_key
from visualglm.evaluation.scenes.kinds import Kind

TABLE = Path(__file__).parents[2] / "recipes" / "mini" / "imagenet_classes.tsv"


@lru_cache(maxsize=1)
def class_kinds() -> tuple[Kind | None, ...]:
    """Return the kind of each class, None for a class without one."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return tuple(_kind(row) for row in rows)


def _kind(row: dict[str, str]) -> Kind | None:
    if not row["concept"]:
        return None
    if not row["zh"]:
        return by_key()[row["concept"]]
    return Kind(row["concept"], row["category"], (row["zh"],), (row["en"],), row["plural"], row["measure"])


@lru_cache(maxsize=1)
def named_kinds() -> tuple[Kind, ...]:
    """Return each kind that a class has, once, in the order of the classes."""
    return tuple(dict.fromkeys(kind for kind in class_kinds() if kind is not None))


def kind_probabilities(probabilities: Tensor) -> Tensor:
    """Add up the classes of each kind: [B, 1000] -> [B, kinds of `named_kinds`]; classes without one are left out."""
    number = {kind: index for index, kind in enumerate(named_kinds())}
    of_class = torch.tensor([-1 if kind is None else number[kind] for kind in class_kinds()])
    kept = of_class >= 0
    found = probabilities.new_zeros(len(probabilities), len(number))
    return found.index_add_(1, of_class[kept].to(probabilities.device), probabilities[:, kept])
