"""A real server under attack: few file descriptors, connections held open, a forged address, a stop."""

from __future__ import annotations

import base64
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ..serving.conftest import SAMPLES

HEADS = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "half a body": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{",
}


class Running:
    """A server in a process of its own, with its log and its folder for temporary files."""

    def __init__(self, folder: Path, files: int | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.folder, self.log = f"http://127.0.0.1:{self.port}", folder, folder / "log"
        command = shlex.join([sys.executable, "-m", "visualglm", "serve", "--port", str(self.port)])
        limit = "" if files is None else f"ulimit -n {files}; "
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f"{limit}exec {command}"], stdout=log, stderr=log, env=environment
            )
        for _ in range(600):
            try:
                httpx.get(f"{self.url}/health", timeout=1)
                return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def stop(self, by: int = signal.SIGTERM) -> None:
        self.process.send_signal(by)
        self.process.wait(120)


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    server = Running(tmp_path, getattr(request, "param", None))
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("running", [64], indirect=True)
def test_connections_held_open_leave_health(running: Running) -> None:
    before = running.log.stat().st_size
    held = []
    for head in HEADS.values():
        for _ in range(100):
            try:
                held.append(socket.create_connection(("127.0.0.1", running.port), timeout=0.2))
                held[-1].sendall(head)
            except OSError:
                continue
        assert [httpx.get(f"{running.url}/health", timeout=30).status_code for _ in range(5)] == [200] * 5
    assert running.log.stat().st_size - before < 100_000
    running.stop()
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_of_a_visitor_outlives_the_server(running: Running, by: int) -> None:
    image = SAMPLES[0].read_bytes()
    sent = {"X-Forwarded-For": "203.0.113.9"}
    url = f"data:image/png;name=passport scan.png;base64,{base64.b64encode(image).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "passport"}]
    body = {"model": "visualglm-mini", "messages": [{"role": "user", "content": content}]}
    assert httpx.get(running.url, headers=sent).status_code == 200
    httpx.post(f"{running.url}/v1/chat/completions?passport=1", json=body, headers=sent, timeout=60)
    running.stop(by)
    log = running.log.read_text()
    assert "203.0.113.9" not in log and "passport" not in log and "Traceback" not in log
    assert re.search(r'"POST /v1/chat/completions HTTP/1.1" \d+', log)
    assert list(running.folder.rglob("*.png")) == []


def test_a_late_head_is_closed(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as held:
        held.sendall(HEADS["half a head"])
        for _ in range(4):
            time.sleep(2)
            held.sendall(b"X-Drip: 1\r\n")
        assert held.recv(1) == b""
