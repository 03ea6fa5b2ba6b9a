"""The page "Coming from upstream": the new code of every row runs, in both languages."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.testing

import visualglm
from visualglm.cli import app

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| (?P<old>[^|]+) \| (?P<new>`[^|]+`) \|$", re.MULTILINE)


def rows(language: str) -> list[str]:
    """Return the new code of each row."""
    page = (DOCS / language / "upstream.md").read_text(encoding="utf-8")
    return [match["new"].strip("`") for match in ROW.finditer(page)]


COMMANDS = [row for row in rows("en") if row.startswith("visualglm ")]
LINES = [row for row in rows("en") if not row.startswith("visualglm ")]


def test_both_languages_have_the_same_rows() -> None:
    assert rows("en") == rows("zh") and len(COMMANDS) > 8 and len(LINES) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "visualglm").mkdir()
    (tmp_path / "visualglm" / "mini").symlink_to(visualglm.packed_model())
    shutil.copytree(Path(__file__).parents[1] / "fine_tuned" / "sat-lora", tmp_path / "tuned")
    monkeypatch.chdir(tmp_path)
    done = typer.testing.CliRunner().invoke(app, shlex.split(command)[1:], input="stop\n", catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_lines_of_python() -> None:
    """Run the lines in order, after the page's first block."""
    page = (DOCS / "en" / "upstream.md").read_text(encoding="utf-8")
    first = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    known: dict[str, Any] = {}
    exec(first, known)
    for line in LINES:
        exec(line, known)
