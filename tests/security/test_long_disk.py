"""Real processes ended while they write: SIGTERM leaves nothing, and what SIGKILL leaves the next run deletes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import visualglm
from visualglm.checkpoints import open_checkpoint

PROGRAM = [sys.executable, "-m", "visualglm"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def started(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """Return a process that has begun to write beside its target."""
    running = subprocess.Popen(
        [*PROGRAM, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    before = {path.name for path in folder.iterdir()}
    deadline = time.monotonic() + 120
    while {path.name for path in folder.iterdir()} <= before and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_conversion_that_is_ended_at_random_moments(tmp_path: Path, number: int) -> None:
    """Five times; the target is the old one or the new one, and one run more tidies up."""
    target, chance = tmp_path / "target", random.Random(3)
    shutil.copytree(visualglm.packed_model(), target, ignore=shutil.ignore_patterns("samples", "*.md", "*.py*"))
    arguments = ["convert", str(visualglm.packed_model()), str(target), "--overwrite", "--to", "sat", "--without-stem"]
    for _ in range(5):
        running = started(arguments, tmp_path)
        time.sleep(chance.random() * 0.7)
        running.send_signal(number)
        _, said = running.communicate(timeout=120)
        assert running.returncode in (0, 2, 143, -number) and "Traceback" not in said, said
        assert open_checkpoint(target).tensors
        left = [path.name for path in tmp_path.iterdir()]
        assert left == ["target"] if number == signal.SIGTERM else len(left) <= 2, left
    done = subprocess.run([*PROGRAM, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
