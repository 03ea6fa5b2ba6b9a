"""The rule of resuming: every item is asked its own question, or the run's, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.sources import CaptionItem
from visualglm.errors import UsageError

PLAIN, OWN = CaptionItem("a.png", Path("a.png")), CaptionItem("a.png", Path("a.png"), "Q")
ROW = {"image": "a.png", "question": "Q", "text": "x"}


def test_items_of_one_image_wait_each_for_their_own_question(tmp_path: Path) -> None:
    with JsonlResults(tmp_path / "out.jsonl") as results:
        assert results.waiting([PLAIN, OWN], "Describe") == [PLAIN, OWN]
        results.write(ROW)
        results.check_question([PLAIN, OWN], "Describe")
        assert results.waiting([PLAIN, OWN], "Describe") == [PLAIN]
        assert results.waiting([PLAIN, OWN], "Q") == [], "both ask the same"


def test_a_image_is_asked_the_same_once(tmp_path: Path) -> None:
    with JsonlResults(tmp_path / "out.jsonl") as results:
        assert len(results.waiting([PLAIN, OWN], "Q")) == 1


def test_rows_that_answer_what_nobody_asks_are_refused(tmp_path: Path) -> None:
    with JsonlResults(tmp_path / "out.jsonl") as results:
        results.write(ROW)
        with pytest.raises(UsageError, match="answers 'Q'"):
            results.check_question([PLAIN], "Describe")
        results.check_question([PLAIN], "Q")
