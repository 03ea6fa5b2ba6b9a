"""What a command does when less is said: the default model, old names of options, too little memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

import visualglm
from visualglm import conversation

from ..conftest import REFERENCE

Program = Callable[..., CompletedProcess[str]]
IMAGE = str(REFERENCE / "images" / "rgb.png")
SHORT = ("--greedy", "--max-new-tokens", "4", "--device", "cpu")


def test_a_variable_names_the_default_model(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    named = program("ask", IMAGE, "x", "--model", str(REFERENCE / "hf"), *SHORT).stdout
    monkeypatch.setenv("VISUALGLM_MODEL", str(REFERENCE / "hf"))
    assert program("ask", IMAGE, "x", *SHORT).stdout == named
    assert visualglm.load(device="cpu").model.config.num_layers == 3
    monkeypatch.setenv("VISUALGLM_MODEL", "/nowhere/model")
    done = program("ask", IMAGE, "x")
    assert done.returncode == 2 and "/nowhere/model does not exist" in done.stderr


def test_old_names_are_still_read(program: Program, tmp_path: Path) -> None:
    hf = str(REFERENCE / "hf")
    assert program("quantize", hf, str(tmp_path / "q"), "--bits", "8", "--no-fingerprint").returncode == 0
    out = str(tmp_path / "out.jsonl")
    assert program("caption", IMAGE.replace("rgb", "*"), "--out", out, "--model", hf, *SHORT).returncode == 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_too_little_memory_is_one_sentence(program: Program, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load(*given: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(conversation, "load", load)
    done = program("ask", IMAGE, "x")
    assert done.returncode == 2 and done.stderr.startswith("visualglm: Out of memory. Add --quantize 8 or 4")


def test_what_a_command_imports_is_never_searched_for_garbage() -> None:
    code = """
import gc
from visualglm.cli.options import import_libraries
import_libraries()
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
import_libraries()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True"]
