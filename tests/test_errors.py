"""What a missing optional package, or a download that went wrong, is said to be: one sentence for all who meet it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from visualglm.checkpoints.storage.read import check_is_weights_file
from visualglm.errors import UsageError, VisualGLMError, require_extra
from visualglm.preprocessing.images import open_image
from visualglm.preprocessing.sentencepiece_vocabulary import open_vocabulary


def test_an_extra_that_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra("train", "LoRA", "json")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError) as caught:
        require_extra("train", "LoRA", "json", "peft")
    assert str(caught.value) == 'LoRA needs peft. Run: pip install "peft>=0.21" "protobuf>=4"'


@pytest.mark.parametrize(
    ("package", "first", "arguments"),
    [
        ("uvicorn", "fastapi", ["serve"]),
        ("ray", "ray[data]", ["caption", "nowhere", "-o", "out", "--engine", "ray"]),
        ("bitsandbytes", "peft", ["finetune", "--method", "qlora", "--output", "out", "--data", "data.csv"]),
        ("peft", "peft", ["finetune", "--output", "out", "--data", "data.csv", "--device", "cpu"]),
    ],
)
def test_commands_say_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: Any, package: str, first: str, arguments: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("img,prompt,label\n,a,b\n")
    done = program(*arguments)
    assert done.returncode == 2 and f'needs {package}. Run: pip install "{first}' in done.stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    ],
)
def test_a_download_that_went_wrong_is_named_alike(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    openers: list[Callable[[Path], Any]] = [open_image, open_vocabulary, check_is_weights_file]
    said = set()
    for opener in openers:
        with pytest.raises(VisualGLMError) as caught:
            opener(file)
        said.add(str(caught.value))
    assert len(said) == 1 and sentence in said.pop()
