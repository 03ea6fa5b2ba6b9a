"""`caption --engine`: what is missing or makes no sense is said before anything is read or opened."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from visualglm.captioning.sources import read_source
from visualglm.cli import app
from visualglm.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--engine", "ray"], r'--engine ray needs ray. Run: pip install "ray\[data\]'),
        (["--actors", "2"], "--engine ray"),
    ],
)
def test_mistakes(arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` turns a `UsageError` into its sentence and exit code 2."""
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, ["caption", "nowhere", "-o", str(tmp_path / "out"), *arguments])
    assert isinstance(done.exception, UsageError)
    assert done.exception.args[0] and not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match=named):
        raise done.exception


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r'pip install "ray\[data\]'):
        read_source(str(tmp_path / "list.parquet"))
