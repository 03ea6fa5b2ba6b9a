"""The messages that the troubleshooting page explains are messages of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from visualglm.cli import OUT_OF_MEMORY

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_message_is_in_the_code(language: str) -> None:
    page = (ROOT / "docs" / language / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    files = sorted((ROOT / "visualglm").rglob("*.py"))
    code = "\n".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text(encoding="utf-8")) for file in files)
    assert len(messages) > 15 and not [message for message in messages if message not in code]


def test_the_exception_has_the_name_that_is_looked_for() -> None:
    assert torch.OutOfMemoryError.__name__ == OUT_OF_MEMORY and issubclass(torch.OutOfMemoryError, RuntimeError)
