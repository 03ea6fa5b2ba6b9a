"""A folder as a user has it, and a fixture that runs the commands which a story's docstring shows."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

import visualglm

from ..conftest import REFERENCE
from ..hub.conftest import hub  # noqa: F401 (a fixture)
from .page import Story, read_story

QUESTION = "What is this?"
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: two images, data, and the small random model in upstream's two layouts."""
    for layout, name in (("hf", "visualglm-6b"), ("sat", "visualglm-6b-sat")):
        shutil.copytree(REFERENCE / layout, tmp_path / name)
    shutil.copy(REFERENCE / "hf" / "ice_text.model", tmp_path / "visualglm-6b-sat")
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(("rgb.png", "l.png")):
        shutil.copy(REFERENCE / "images" / image, tmp_path / "photos" / f"{number}.png")
    rows = [{"img": f"photos/{n % 2}.png", "prompt": f"图{n // 2}？", "label": "ab"[n % 2] * 2} for n in range(8)]
    (tmp_path / "data.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def story(request: pytest.FixtureRequest) -> Story:
    """Return what the docstring of the test says."""
    return read_story(request.function.__name__, request.function.__doc__)


@pytest.fixture
def show(
    story: Story, folder: Path, program: Callable[..., CompletedProcess[str]]
) -> Callable[..., list[CompletedProcess[str]]]:
    """Run the story's commands in `folder` and return what each said; `show(2)` expects the last to exit with 2."""

    def run(code: int = 0) -> list[CompletedProcess[str]]:
        done = [program(*shlex.split(command)[1:]) for command in story.commands]
        codes = [0] * (len(done) - 1) + [code]
        assert [one.returncode for one in done] == codes, done[-1].stdout[-1000:] + done[-1].stderr[-2000:]
        return done

    return run


@pytest.fixture
def adapter(folder: Path) -> Path:
    """Return an adapter of `visualglm-6b`, trained for a few steps."""
    return train(folder, "lora", "runs/lora")


def train(folder: Path, method: str, output: str, *changes: str, **options: Any) -> Path:
    """Train on `data.json`, which takes about a second."""
    from visualglm.finetuning import run
    from visualglm.finetuning.config import read_finetuning

    settings = ("batch=4", "epochs=2", "learning_rate=0.05", "validation_share=0.0", "answers=0", *changes)
    paths = {"data": str(folder / "data.json"), "output": str(folder / output), "model": str(folder / "visualglm-6b")}
    plan = read_finetuning(None, settings, method=method, **paths)
    assert run.finetune(plan, options.pop("say", lambda line: None), device="cpu", **options)
    return folder / output


def answer(model: visualglm.VisualGLM, image: str = "photos/0.png", question: str = QUESTION) -> str:
    """Return the greedy answer."""
    return model.ask(image, question, **GREEDY).text
