"""The site's index has every page, and the page of the command line is what the commands print."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from visualglm.cli import app

from .test_architecture import load_script

DOCS = Path(__file__).parents[1] / "docs"


def test_every_page_is_in_the_navigation_and_in_the_index() -> None:
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    listed = re.findall(r"\w+\.md", navigation)
    assert sorted(listed) == sorted(page.name for page in (DOCS / "en").glob("*.md"))
    for language in ("en", "zh"):
        index = (DOCS / language / "index.md").read_text(encoding="utf-8")
        assert not [name for name in listed if f"({name})" not in index and name != "index.md"], language


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_command_line_page_is_of_today(language: str) -> None:
    page = load_script("make_cli_page").write_page(language)
    assert page == (DOCS / language / "cli.md").read_text(encoding="utf-8"), "run: make docs-pages"
    assert page.count("\n## ") == len(app.registered_commands)


def test_extras_in_the_install_page_are_those_of_the_package() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for language in ("en", "zh"):
        rows = re.findall(r"^\| `(\w+)` \|", (DOCS / language / "install.md").read_text("utf-8"), re.MULTILINE)
        assert sorted(rows) == sorted(set(project["optional-dependencies"]) - {"dev"})
