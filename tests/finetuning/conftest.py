"""A small data set about two images, and runs of a few steps on the small random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from visualglm.finetuning import run
from visualglm.finetuning.config import Finetuning, read_finetuning

from ..conftest import REFERENCE

IMAGES = [str(REFERENCE / "images" / name) for name in ("rgb.png", "l.png")]
BASE = str(REFERENCE / "hf")


def rows(count: int = 8) -> list[dict[str, str]]:
    """Return rows in upstream's format; the image decides the answer."""
    return [
        {"img": IMAGES[n % 2], "prompt": f"图{n // 2}？", "label": "ab"[n % 2] * (1 + n // 2)} for n in range(count)
    ]


def written(folder: Path, content: Any = None, name: str = "data.json") -> str:
    file = folder / name
    file.write_text(json.dumps(rows() if content is None else content, ensure_ascii=False), encoding="utf-8")
    return str(file)


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Return a function that builds recipes of four steps: `recipe("lora", "epochs=1")`."""

    def made(method: str = "lora", *changes: str, output: str = "out", data: str | None = None) -> Finetuning:
        settings = ("batch=4", "epochs=2", "validation_share=0.0", "answers=2", "max_new_tokens=2", *changes)
        file = data or written(tmp_path)
        return read_finetuning(None, settings, data=file, output=str(tmp_path / output), method=method, model=BASE)

    return made


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the models that runs prepare, with their weights before training."""
    seen: list[Any] = []
    make = run.prepare_for_training

    def noted(*args: Any) -> Any:
        ready = make(*args)
        seen.append((ready, {name: value.detach().clone() for name, value in ready.model.named_parameters()}))
        return ready

    monkeypatch.setattr(run, "prepare_for_training", noted)
    return seen
