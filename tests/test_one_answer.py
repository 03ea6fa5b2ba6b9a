"""The same image, question, language and sampling give the same answer through every interface."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import visualglm
import visualglm.auto  # registers

pytestmark = pytest.mark.slow

FOLDER = visualglm.packed_model()
SAMPLE = sorted((FOLDER / "samples").glob("*.png"))[0]
QUESTION = "描述这张图片。"


@pytest.fixture(scope="module")
def expected(opened: visualglm.VisualGLM) -> str:
    return opened.ask(SAMPLE, QUESTION).text


def messages() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "path": str(SAMPLE)}, {"type": "text", "text": QUESTION}]}]


def test_stream(opened: visualglm.VisualGLM, expected: str) -> None:
    assert "".join(opened.conversation(SAMPLE).stream(QUESTION)) == expected


def test_batch(opened: visualglm.VisualGLM, expected: str) -> None:
    others = sorted((FOLDER / "samples").glob("*.png"))
    assert (
        next(a.text for a, p in zip(opened.caption(others, QUESTION), others, strict=True) if p == SAMPLE) == expected
    )


def test_upstreams_chat(opened: visualglm.VisualGLM, expected: str) -> None:
    assert opened.model.chat(opened.tokenizer, str(SAMPLE), QUESTION, history=[])[0] == expected


def test_auto_classes_and_chat_template(expected: str) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype="float32")
    processor = AutoProcessor.from_pretrained(FOLDER)
    inputs = processor.apply_chat_template(
        messages(), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(ids) == expected


def test_pipeline(opened: visualglm.VisualGLM, expected: str) -> None:
    from transformers import pipeline

    pipe = pipeline("image-text-to-text", model=opened.model, processor=opened.processor)
    (output,) = pipe(text=messages(), return_full_text=False)
    assert output["generated_text"] == expected


def test_command_line(expected: str) -> None:
    command = [sys.executable, "-m", "visualglm", "ask", str(SAMPLE), QUESTION, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["text"] == expected


def test_upstreams_snippet_with_one_line_added(expected: str) -> None:
    """The README of upstream, the model's name changed to a folder; float32 where it says `.half().cuda()`."""
    program = f"""
import visualglm.auto
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(FOLDER)!r}, trust_remote_code=True)
model = AutoModel.from_pretrained({str(FOLDER)!r}, trust_remote_code=True).float()
image_path = {str(SAMPLE)!r}
response, history = model.chat(tokenizer, image_path, "描述这张图片。", history=[])
print(response)
response, history = model.chat(tokenizer, "这张图片可能是在什么场所拍摄的？", history=history)
print(len(history))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == [expected, "2"]
