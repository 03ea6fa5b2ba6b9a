"""One name per option: the same in every verb and script, old names read and not shown."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import typer

from visualglm.cli import app
from visualglm.cli.grouped_help import OLD_NAMES

ROOT = Path(__file__).parents[2]
SHORT_NAMES = {"-o": "--output"}
NAMES = OLD_NAMES | SHORT_NAMES
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SCRIPTS = [path for folder in ("benchmarks", "docs", "examples", "lab") for path in (ROOT / folder).rglob("*.py")]


def is_named_once(spellings: list[str]) -> bool:
    """Return True if each old or short name stands beside the option's name, and each name has its short one."""
    has_name = all(NAMES[name] in spellings for name in NAMES if name in spellings)
    return has_name and all(short in spellings for short, name in SHORT_NAMES.items() if name in spellings)


def script_options(path: Path) -> Iterator[list[str]]:
    """Yield the spellings of each option that a script passes to `add_argument`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield [argument.value for argument in node.args if isinstance(argument, ast.Constant)]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_uses_the_names(verb: str, program: Callable[..., CompletedProcess[str]]) -> None:
    options = [parameter.opts for parameter in VERBS[verb].params if parameter.param_type_name == "option"]
    assert [option for option in options if not is_named_once(option)] == []
    words = program(verb, "--help").stdout.replace(",", " ").split()
    assert not set(OLD_NAMES) & set(words)


def test_every_script_uses_the_names() -> None:
    found = [(path.name, option) for path in SCRIPTS for option in script_options(path)]
    assert any("--output" in option for _, option in found)
    assert [(name, option) for name, option in found if not is_named_once(option) or set(OLD_NAMES) & set(option)] == []


@pytest.mark.parametrize("spellings", [["--out"], ["-o", "--out"], ["--output"], ["--bits"]])
def test_an_option_with_only_an_old_name_is_found(spellings: list[str]) -> None:
    assert not is_named_once(spellings)
