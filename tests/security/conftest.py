"""Attacks on everything that takes a stranger's input. Files named test_long_* take minutes: `make test-security`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

collect_ignore_glob = [] if os.environ.get("VISUALGLM_TEST_SECURITY") else ["test_long_*.py"]

HANG = (
    "from visualglm.preprocessing import image_worker as worker; "
    "import time; worker.decode_image = lambda *a: time.sleep(600); worker.main()"
)
"""A process of preprocessing/image_pool.py whose decoder does not end."""


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield the program that processes of preprocessing/image_pool.py run, until the list is emptied."""
    real, program = subprocess.Popen, [HANG]

    def start(command: list[str], **more: object) -> subprocess.Popen:
        return real([*command[:2], "-c", program[0]] if program else command, **more)

    monkeypatch.setattr(subprocess, "Popen", start)
    yield program
