"""The rule of resuming: every item is asked its own question, or the run's, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.sources import CaptionItem, read_source
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


@pytest.mark.parametrize("pattern", ["", "/*.png"])
def test_a_moved_source_is_resumed_if_it_has_the_same_images(tmp_path: Path, pattern: str) -> None:
    """A source that still exists, or other images under the same names, are another source."""

    def check(folder: str) -> None:
        source = f"{tmp_path / folder}{pattern}"
        with JsonlResults(tmp_path / "out.jsonl") as results:
            results.check_run({"source": source, "seed": 0}, read_source(source))

    for folder, content in (("one", b"1"), ("copy", b"1"), ("other", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(content)
    (tmp_path / "out.jsonl").write_text(json.dumps(ROW) + "\n")
    check("one")
    with pytest.raises(UsageError, match="begun with source"):
        check("copy")
    (tmp_path / "one" / "b.png").touch()
    (tmp_path / "one").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="begun with source"):
        check("other")
    check("moved")
    check("moved")
    with pytest.raises(UsageError, match="begun with source"):
        check("copy")
