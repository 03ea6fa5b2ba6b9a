"""The page of the stories is made from their docstrings, and is of today."""

from __future__ import annotations

import pytest

from .page import ROOT, chapters, write_page


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_of_today(language: str) -> None:
    stored = (ROOT / "docs" / language / "stories.md").read_text(encoding="utf-8")
    assert stored == write_page(language), "run: python -m tests.stories.page"


def test_there_are_25() -> None:
    assert sum(len(stories) for _, stories in chapters().values()) == 25
