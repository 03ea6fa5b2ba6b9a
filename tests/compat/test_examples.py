"""The examples: one answer through four interfaces, and English answers without Chinese."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import visualglm

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    __import__("sys").modules[name] = module  # dataclasses look their module up there
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("question", ["描述这张图片。", "What is in the picture?"])
def test_four_interfaces_give_one_answer(question: str) -> None:
    """With the same prompt, pixels and penalty, HF-style and sat-style chat, Conversation and `ask` answer the same."""
    packed = visualglm.packed_model()
    image = sorted((packed / "samples").glob("*.png"))[0]
    four_ways = example("four_ways")
    answers = four_ways.four_ways(str(packed), str(image), question)
    assert four_ways.differences(answers) == [] and all(answer.text for answer in answers)
    marks = [answer.marks for answer in answers if answer.name in ("Conversation.ask", "visualglm ask")]
    assert marks == ["Q/A" if question.isascii() else "问/答"] * 2


def test_english_answers_have_no_chinese_characters() -> None:
    """`python examples/english_only.py` does the same with 200 questions."""
    found = example("english_only").count(8, str(visualglm.packed_model()))
    assert found["with_chinese"] == 0 and found["answers"] == 16
