"""What a missing optional package, or a download that went wrong, is said to be: one sentence for all who meet it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from visualglm.errors import UsageError, require_extra


def test_an_extra_that_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra("train", "LoRA", "json")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError) as caught:
        require_extra("train", "LoRA", "json", "peft")
    assert str(caught.value) == 'LoRA needs peft: run pip install "visualglm[train]".'


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("gradio", "serve", ["serve"]),
        ("ray", "ray", ["caption", "nowhere", "-o", "out", "--engine", "ray"]),
        ("bitsandbytes", "qlora", ["finetune", "--method", "qlora", "--output", "out", "--data", "data.csv"]),
        ("peft", "train", ["finetune", "--output", "out", "--data", "data.csv", "--device", "cpu"]),
    ],
)
def test_commands_say_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, program: Any, package: str, extra: str, arguments: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("img,prompt,label\n,a,b\n")
    done = program(*arguments)
    assert done.returncode == 2 and f'needs {package}: run pip install "visualglm[{extra}]".' in done.stderr
