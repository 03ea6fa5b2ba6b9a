"""`visualglm download` against a hub on this machine: resumed, checked, and refused in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from visualglm.hub import download as module

from ..conftest import REFERENCE
from .fake_hub import FakeHub

Program = Callable[..., CompletedProcess[str]]
NAMES = {path.name for path in (REFERENCE / "hf").iterdir()}


def test_into_a_folder_and_resumed(hub: FakeHub, program: Program, tmp_path: Path) -> None:
    hub.cut = {"pytorch_model-00001-of-00003.bin": 200_000}
    done = program("download", "6b", "--output", str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'model'}\n" and "licence" in done.stderr and "1.14 MB  in all" in done.stderr
    assert hub.ranges and hub.ranges[0].startswith("pytorch_model-00001-of-00003.bin bytes=200000-")
    for path in (REFERENCE / "hf").iterdir():
        assert (tmp_path / "model" / path.name).read_bytes() == path.read_bytes()
    hub.requests.clear()
    assert program("download", "6b", "--output", str(tmp_path / "model")).returncode == 0
    assert not [line for line in hub.requests if line.startswith("GET /zai-org")], "nothing is fetched twice"


def test_into_the_cache_without_code(hub: FakeHub, program: Program, tmp_path: Path) -> None:
    hub.folder = Path(shutil.copytree(hub.folder, tmp_path / "with-code"))
    (hub.folder / "modeling_chatglm.py").write_text("raise RuntimeError")
    folder = Path(program("download", "zai-org/visualglm-6b").stdout.strip())
    assert folder.is_relative_to(tmp_path / "cache") and {path.name for path in folder.iterdir()} == NAMES


def test_a_listing_alone(hub: FakeHub, program: Program, tmp_path: Path) -> None:
    done = program("download", "6b", "--dry-run")
    assert "575 kB  pytorch_model-00001-of-00003.bin" in done.stdout and not (tmp_path / "cache").exists()


def test_a_damaged_file_is_deleted_and_fetched_again(hub: FakeHub, program: Program) -> None:
    hub.damaged = {"pytorch_model-00002-of-00003.bin"}
    done = program("download", "6b")
    assert done.returncode == 2 and "pytorch_model-00002-of-00003.bin has another sha256" in done.stderr
    hub.damaged = set()
    assert program("download", "6b").returncode == 0


def test_mistakes(hub: FakeHub, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nonsense is not a hub id" in program("download", "nonsense").stderr
    assert "neither a folder here nor a model" in program("download", "zai-org/other").stderr
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 10, 0))
        assert "too little free space" in program("download", "6b").stderr
    hub.answers_html = True
    assert "is not JSON" in program("download", "6b").stderr
