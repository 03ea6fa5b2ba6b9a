"""The product neither imports nor packages the laboratory."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_product_never_imports_the_laboratory() -> None:
    found = []
    for folder in ("visualglm", "tests", "benchmarks", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found += [f"{file.relative_to(ROOT)}:{name}" for name in names if name.startswith("visualglm_lab")]
    assert found == []


def test_each_wheel_holds_its_own_packages() -> None:
    setuptools = pytest.importorskip("setuptools")
    for folder, top in ((ROOT, "visualglm"), (ROOT / "lab", "visualglm_lab")):
        settings = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        include = settings["tool"]["setuptools"]["packages"]["find"]["include"]
        packages = setuptools.find_namespace_packages(str(folder), include=include)
        assert top in packages
        assert {package.split(".")[0] for package in packages} == {top}
