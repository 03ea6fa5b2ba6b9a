"""`visualglm serve`: mistakes before the model is loaded; a real process finishes its answers on SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

import visualglm

from .conftest import SAMPLES, asked

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def process(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "visualglm", "serve", *arguments]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--host", "::"], "--api-key-file"),
        (["--host", "example.org"], "--api-key-file"),
        (["--api-key-file", "missing"], "missing"),
        (["--api-key-file", os.devnull], "no key"),
        (["--allow-image-domain", "http://a.example/"], "--allow-image-domain"),
        (["--port", "0"], "--port"),
        (["--engine", "nothing"], "--engine"),
        (["--time-limit", "inf"], "--time-limit"),
        (["--time-limit", "nan"], "--time-limit"),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes(
    program: Callable[..., subprocess.CompletedProcess[str]],
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("uvicorn.Server.run", lambda server: pytest.fail("the mistake was not noticed"))
    done = program("serve", *arguments)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr


def started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Return a server on a free port, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = process("--port", str(port), "--no-web", *arguments)
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert running.stderr is not None
    for line in running.stderr:
        if "Uvicorn running" in line:
            return running, re.findall(r"http://\S+", line)[0]
    raise AssertionError(f"the server ended with {running.wait()}")


def test_sigterm_finishes_the_answer_under_way(opened: visualglm.VisualGLM, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret\n")
    running, url = started("--api-key-file", str(tmp_path / "keys"), "--max-new-tokens", "60")
    body = asked("描述这张图片。", SAMPLES[0], stream=True)
    headers = {"Authorization": "Bearer secret"}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        running.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""] or rest[-1] == "data: [DONE]"
    log = running.stderr.read() if running.stderr else ""
    assert running.wait(60) in (0, -signal.SIGTERM)
    assert "secret" not in log and "base64" not in log and "Traceback" not in log


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = process("--port", str(taken.getsockname()[1]), "--no-web")
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 2
    assert "cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr
