"""Settings of a recipe: impossible values are rejected by name before any work."""

from __future__ import annotations

import pytest

from visualglm.errors import UsageError
from visualglm.finetuning.config import read_finetuning


@pytest.mark.parametrize(
    "change, fault",
    [
        ("epochs=0", r"epochs is 0\. Give a number above 0"),
        ("epochs=inf", "epochs is inf"),
        ("lora.alpha=-1", "lora.alpha is -1"),
        ("learning_rate=-1.0", r"learning_rate is -1\.0\. Give 0 or more"),
        ("learning_rate=nan", "learning_rate is nan"),
        ("weight_decay=-0.1", "weight_decay"),
        ("gradient_norm=-1.0", "gradient_norm"),
        ("max_tokens=-1", "max_tokens"),
        ("workers=-1", "workers"),
        ("seed=-1", "seed is -1"),
        ("seed=4294967296", "seed is 4294967296. Give a number below"),
        ("save_steps=-1", "save_steps"),
        ("early_stop=-1", "early_stop"),
        ("answers=-1", "answers"),
        ("ptuning.width=-1", "ptuning.width"),
        ("lora.dropout=1.5", r"lora\.dropout is 1\.5\. Give a fraction"),
        ("warmup=1.0", "warmup"),
        ("lora.targets=[]", r"lora\.targets is \[\]\. Give a list"),
        ("lora.targets=[3]", r"lora\.targets is \[3\]"),
        ("lora.targets=3", "lora.targets is 3"),
    ],
)
def test_impossible_numbers_are_named(change: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        read_finetuning(None, (change,), data="-", output="-")


def test_nothing_is_a_number_where_it_means_choose() -> None:
    """Zero means: the method's learning rate, no limit, every epoch, never."""
    zeros = ("learning_rate=0.0", "gradient_norm=0.0", "save_steps=0", "early_stop=0", "answers=0", "lora.dropout=0.0")
    assert read_finetuning(None, zeros, data="-", output="-").rate == 1e-3
