"""A real `visualglm serve` of the packed model, and the clients' environments, which `make test-clients` installs."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "build" / "clients"


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Yield the address of a server on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "visualglm", "serve", "--port", str(port), "--no-web"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert running.stderr is not None
    try:
        yield next(re.findall(r"http://\S+", line)[0] for line in running.stderr if "Uvicorn running" in line)
    finally:
        running.terminate()
        running.communicate()


def client(name: str) -> Path:
    """Return the folder of a client's environment; skip the test if there is none."""
    if os.environ.get("VISUALGLM_TEST_CLIENTS") != "1" or not (INSTALLED / name / ".done").exists():
        pytest.skip(f"not run: `make test-clients` installs this client ({name}) and runs the test")
    return INSTALLED / name
