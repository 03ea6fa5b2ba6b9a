"""Evaluation before and after training: the answers equal those of every other interface."""

from __future__ import annotations

import subprocess
import sys

from visualglm.conversation import VisualGLM
from visualglm.finetuning.evaluation import EvalQuestion, answers, probes, score


def test_the_probe_is_answered_as_ask_answers(opened: VisualGLM) -> None:
    asked = probes()
    images = [one.images[0] if one.images else None for one in asked]
    said = answers(opened, asked, "auto", 12)
    assert said == [
        opened.ask(image, one.turns[-1].question, do_sample=False, max_new_tokens=12).text
        for image, one in zip(images, asked, strict=True)
    ]


def test_an_answer_is_right_whatever_its_case_spaces_and_last_mark() -> None:
    asked = [EvalQuestion([], [], wanted) for wanted in ("A cat.", "一只 猫", "two")]
    found = score(asked, ["a cat", "一只猫。", "three"])
    assert found is not None and found.value == 2 / 3 and found.low < found.value < found.high
    assert score([], []) is None


def test_fine_tuning_needs_no_package_of_the_eval_extra() -> None:
    hidden = "import sys; sys.modules.update(dict.fromkeys(('pycocoevalcap', 'scipy')))"
    subprocess.run([sys.executable, "-c", f"{hidden}; import visualglm.finetuning.run"], check=True)
