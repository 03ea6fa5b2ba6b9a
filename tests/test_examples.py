"""The notebook runs on the packed model; the page for Spaces answers, with a stand-in for gradio."""

from __future__ import annotations

import itertools
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import visualglm

EXAMPLES = Path(__file__).parents[1] / "examples"
SAMPLE = str(visualglm.packed_model() / "samples" / "moon.png")


@pytest.mark.docs
def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "is stored without outputs"
            exec("".join(cell["source"]), names)
    assert "moon.png - " in capsys.readouterr().out


def test_the_space_answers_about_the_images_so_far(
    opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(ChatInterface=lambda answer, **options: answer))
    monkeypatch.setattr(visualglm, "load", lambda: opened, raising=False)
    answer = runpy.run_path(str(EXAMPLES / "gradio_space" / "app.py"))["answer"]
    wanted = opened.ask(SAMPLE, "What is in the picture?").text
    assert list(answer({"text": "What is in the picture?", "files": [SAMPLE]}, []))[-1] == wanted
    shown = [{"type": "file", "file": {"path": SAMPLE}}, {"type": "text", "text": "hi"}]
    history = [{"role": "user", "content": shown}, {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}]
    later = list(answer({"text": "What is in the picture?", "files": []}, history))
    assert later[-1] == wanted and all(b.startswith(a) for a, b in itertools.pairwise(later))
