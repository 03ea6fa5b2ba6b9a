"""The clients that people use speak to the server as they are: plain, streamed, images, follow-ups, and errors.

Each script in `scripts` runs in the environment of its client and prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import visualglm

from .conftest import client

SCRIPTS = Path(__file__).parent / "scripts"
IMAGE = visualglm.packed_model() / "samples" / "moon.png"
QUESTION, FOLLOWING = "What is in the picture?", "How many objects?"


@pytest.fixture(scope="session")
def expected() -> tuple[str, str]:
    """Return the answers to both questions from the Python interface."""
    conversation = visualglm.load().conversation(IMAGE)
    return conversation.ask(QUESTION).text, conversation.ask(FOLLOWING).text


def run(*command: str | Path, **environment: str) -> str:
    """Run a client in its own environment; return what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=300,
        env={**inherited, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_script(name: str, script: str, url: str) -> dict[str, Any]:
    """Run a script with the client `name`; a module of Node finds its packages from where its file is."""
    folder = client(name)
    if script.endswith(".mjs"):
        program: list[str | Path] = ["node", shutil.copy(SCRIPTS / script, folder / script)]
    else:
        program = [folder / "bin" / "python", SCRIPTS / script]
    found: dict[str, Any] = json.loads(run(*program, url, IMAGE, QUESTION, FOLLOWING).splitlines()[-1])
    return found


TOO_LONG, NO_MODEL = "context_length_exceeded", "model_not_found"
OPENAI_ERRORS = {
    "too_long": ["BadRequestError", TOO_LONG, True],
    "responses_too_long": ["BadRequestError", TOO_LONG, True],
    "model": ["NotFoundError", NO_MODEL, True],
    "kept": ["BadRequestError", "unsupported_parameter", True],
}
OVERFLOW = ["OpenAIContextOverflowError", "ContextOverflowError"]
CLASSES_AND_CODES = {"too_long": ["BadRequestError", TOO_LONG], "model": ["NotFoundError", NO_MODEL]}


@pytest.mark.parametrize(
    ("name", "script", "errors"),
    [
        ("openai-2", "openai_client.py", OPENAI_ERRORS),
        ("openai-3", "openai_client.py", OPENAI_ERRORS),
        ("litellm", "litellm_client.py", {"too_long": ["ContextWindowExceededError"], "model": ["NotFoundError"]}),
        (
            "langchain",
            "langchain_client.py",
            {"too_long": OVERFLOW, "responses_too_long": OVERFLOW},
        ),
        ("anthropic", "anthropic_client.py", CLASSES_AND_CODES),
        ("npm", "openai_client.mjs", CLASSES_AND_CODES),
        ("npm", "anthropic_client.mjs", CLASSES_AND_CODES),
        (
            "npm",
            "ai_sdk_client.mjs",
            {"too_long": ["AI_APICallError", TOO_LONG], "model": ["AI_APICallError", NO_MODEL]},
        ),
    ],
)
def test_a_client(name: str, script: str, errors: dict[str, Any], request: pytest.FixtureRequest) -> None:
    client(name)  # before the server is started
    expected: tuple[str, str] = request.getfixturevalue("expected")
    found = run_script(name, script, request.getfixturevalue("url"))
    assert set(found["answers"]) == {expected[0]}, found["answers"]
    assert set(found["followed"]) == {expected[1]}, found["followed"]
    assert found["errors"] == errors
    if name.startswith("openai-"):
        assert found["version"].startswith(f"{name[-1]}.")


def test_llm_with_an_attachment(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Simon Willison's `llm` in the terminal, as its documentation says for servers like OpenAI's."""
    program = client("llm") / "bin" / "llm"
    expected: tuple[str, str] = request.getfixturevalue("expected")
    url: str = request.getfixturevalue("url")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: glm\n  model_name: visualglm-mini\n  api_base: {url}/v1\n  vision: true\n"
    )
    home = {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    assert run(program, "-m", "glm", "-a", IMAGE, QUESTION, **home).strip() == expected[0]
    assert run(program, "-m", "glm", "--continue", FOLLOWING, **home).strip() == expected[1]
    assert run(program, "-m", "glm", "--no-stream", "-a", IMAGE, QUESTION, **home).strip() == expected[0]
