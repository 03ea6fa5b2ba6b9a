"""Uploads: bounded in bytes, files and age, private, and gone when the server is."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs visualglm[serve]")

import visualglm
from visualglm.errors import ImageError
from visualglm.serving.app import ServerSettings, create_app
from visualglm.serving.uploads import PREFIX, Uploads, remove_abandoned


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads are kept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # what a page sets is undone
    return tmp_path


def test_the_oldest_go_first(parent: Path) -> None:
    uploads = Uploads(byte_limit=100, file_limit=3)
    files = [uploads.store(b"x" * 30, "a.png") for _ in range(5)]
    assert [uploads.holds(file) for file in files] == [False, False, True, True, True]
    large = uploads.store(b"x" * 90, "a.JPG")
    assert [file for file in [*files, large] if uploads.holds(file)] == [large]
    assert len([file for file in uploads.folder.rglob("*") if file.is_file()]) == 1
    with pytest.raises(ImageError, match="100 bytes"):
        uploads.store(b"x" * 101, "a.png")


def test_the_old_go(parent: Path) -> None:
    uploads = Uploads(byte_limit=100, age_limit=0)
    file = uploads.store(b"x", "a.png")
    uploads.expire()
    assert not uploads.holds(file) and not Path(file).exists()


def test_nothing_else_is_held(parent: Path) -> None:
    uploads = Uploads(byte_limit=100)
    file = uploads.store(b"x", "a.png")
    other = uploads.folder / "other.png"
    other.write_bytes(b"x")
    folder, name = os.path.split(file)
    for path in (str(other), f"{folder}//{name}", f"{folder}/./{name}", f"{folder}/../{uploads.folder.name}/{name}"):
        assert not uploads.holds(path)
    assert stat.S_IMODE(uploads.folder.stat().st_mode) == 0o700


def test_the_folder_goes_with_the_server(parent: Path, opened: visualglm.VisualGLM) -> None:
    app = create_app(opened, ServerSettings(with_api=False))
    file = app.state.uploads.store(b"x", "a.png")

    async def served_once(fails: bool) -> None:
        async with app.router.lifespan_context(app):
            assert Path(file).exists()
            assert not fails, "an error while it serves"

    with pytest.raises(AssertionError, match="an error while it serves"):
        asyncio.run(served_once(fails=True))
    assert [found for found in parent.rglob("*") if found.is_file() or found.name.startswith(PREFIX)] == []


def test_a_killed_servers_folder_goes_with_the_next_start(parent: Path) -> None:
    running = Uploads(byte_limit=100)
    left, new, other = (parent / f"{PREFIX}{name}" for name in ("left", "new", "link"))
    for folder in (left, new, parent / "target"):
        folder.mkdir()
        (folder / "a.png").write_bytes(b"x")
    other.symlink_to(parent / "target")
    for folder in (left, running.folder):
        os.utime(folder, (time.time() - 3600,) * 2)
    remove_abandoned(parent)
    assert not left.exists(), "no process has it"
    assert running.folder.exists() and new.exists() and (parent / "target" / "a.png").exists()
    running.close()
    running.close()
    assert not running.folder.exists()
