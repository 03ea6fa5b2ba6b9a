"""The page of environment variables names every variable that the code reads or sets, and no other of ours."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"[A-Z][A-Z0-9]*_?[A-Z0-9_]*")
ELSEWHERE = {"HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "VLLM_CPU_KVCACHE_SPACE"}
"""Read by libraries that we call."""


def names_in(node: ast.AST) -> set[str]:
    """Constants below a node that look like names of variables."""
    found = {child.value for child in ast.walk(node) if isinstance(child, ast.Constant)}
    return {text for text in found if isinstance(text, str) and len(text) > 3 and NAME.fullmatch(text)}


def variables(tree: ast.AST) -> Iterator[str]:
    """Names in what touches `os.environ`, in `envvar=`, and in constants that hold such names."""
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, (ast.Call, ast.Subscript, ast.Compare)) else ""
        if text.startswith(("os.environ", "os.getenv")) or (isinstance(node, ast.Compare) and "os.environ" in text):
            yield from names_in(node)
        if isinstance(node, ast.Call) and "os.environ" in text:
            yield from names_in(node)
        if isinstance(node, ast.keyword) and node.arg == "envvar":
            yield from names_in(node)
        if isinstance(node, ast.Assign) and re.search(r"VARIABLE|INHERITED", ast.unparse(node.targets[0])):
            yield from names_in(node.value)
        if isinstance(node, ast.ListComp) and "os.environ" in ast.unparse(node):
            yield from names_in(node)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_names_every_variable(language: str) -> None:
    files = sorted((ROOT / "visualglm").rglob("*.py"))
    read = {name for file in files for name in variables(ast.parse(file.read_text(encoding="utf-8")))}
    page = (ROOT / "docs" / language / "environment.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {"VISUALGLM_MODEL", "RANK", "RAY_ADDRESS"} <= read
    assert named - ELSEWHERE == read
