"""vLLM's `run-batch`: a file of requests gets the answers of transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import DIALOGUES, FOLDER, NEW_TOKENS, Answer

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")


def test_a_file_of_requests_is_answered(expected: dict[str, Answer], tmp_path: Path) -> None:
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    with requests.open("w", encoding="utf-8") as file:
        for name, messages in DIALOGUES.items():
            body = {"model": str(FOLDER), "messages": messages, "max_tokens": NEW_TOKENS}
            request = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(request) + "\n")
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.run_batch", "-i", str(requests), "-o", str(answers)]
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    done = subprocess.run(
        [*command, "--model", str(FOLDER), "--dtype", "float32"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    replies = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    said = {reply["custom_id"]: reply["response"]["body"]["choices"][0]["message"]["content"] for reply in replies}
    assert said == {name: answer.text for name, answer in expected.items()}
