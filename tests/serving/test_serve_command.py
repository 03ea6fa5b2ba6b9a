"""`visualglm serve`: mistakes before the model is loaded; a real process finishes its answers on SIGTERM."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

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
        (["--api-key-file", "keys.gbk"], "Line 2 of --api-key-file keys.gbk"),
        (["--api-key-file", "keys.two"], "Line 1 of --api-key-file keys.two"),
        (["--allow-origin", "*"], "--allow-origin *"),
        (["--engine", "vllm", "--allow-origin", "http://a.example/"], "--allow-origin http://a.example/"),
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
    (tmp_path / "keys.gbk").write_bytes("good\n密钥\n".encode("gbk"))
    (tmp_path / "keys.two").write_text("one two\n")
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


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_connections_without_an_answer_hold_nothing(name: str) -> None:
    """The process may wait for 610 s for an answer, but for nothing else."""
    running, url = started()
    place = urlsplit(url)
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for sent in (b"", whole, whole[:20], head, head + b'{"text":'):
            connection = stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=60))
            connection.sendall(sent)
            if sent == whole:
                assert connection.recv(12) == b"HTTP/1.1 200"
        running.send_signal(getattr(signal, name))
        log = running.communicate(timeout=120)[1]
    assert running.returncode in (0, -getattr(signal, name), 130)  # the last is Ctrl-C's
    assert "Traceback" not in log


def test_the_log_shows_the_id_of_a_request(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbfsecret\r\n")
    running, url = started("--api-key-file", str(tmp_path / "keys"))
    refused = httpx.post(f"{url}/v1/chat/completions", json={})
    answered = httpx.get(f"{url}/v1/models", headers={"x-api-key": "secret"})
    assert (refused.status_code, answered.status_code) == (401, 200)
    running.terminate()
    running.communicate(timeout=120)
    log = capfd.readouterr().out.splitlines()
    for reply, path in ((refused, "/v1/chat/completions"), (answered, "/v1/models")):
        assert any(path in line and line.endswith(reply.headers["x-request-id"]) for line in log), log


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = process("--port", str(taken.getsockname()[1]), "--no-web")
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("visualglm: Port ") and "is in use" in done.stderr
    assert done.stderr.count("\n") == 1  # no model was loaded, and no address was announced
    assert "Traceback" not in done.stderr
