"""What stands where an image's file should: pipes, devices, sockets, folders, broken links, files without end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import visualglm
from visualglm.captioning import local_engine as captioning
from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.local_engine import CaptionPlan, CaptionRun
from visualglm.captioning.sources import CaptionItem, read_source
from visualglm.errors import ImageError, UsageError
from visualglm.preprocessing import image_bytes
from visualglm.preprocessing.images import open_image

from .image_attacks import ATTACKS

SAMPLE = visualglm.packed_model() / "samples" / "moon.png"
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One good image, and everything that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(SAMPLE, folder / "good.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "null.png").symlink_to("/dev/null")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "empty.png").touch()
    with (folder / "huge.png").open("wb") as huge:
        huge.truncate(image_bytes.FILE_LIMIT + 1)
    (folder / "webp.webp").write_bytes(ATTACKS["webp canvas"]())
    (folder / "scans.jpg").write_bytes(ATTACKS["jpeg scans"]())
    with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as bound:  # the path of a socket is short
        bound.bind("socket.png")
    return folder


def test_open_image_refuses_each(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        if file.name != "good.png":
            with pytest.raises(ImageError) as raised:
                open_image(file)
            assert "\n" not in str(raised.value)
    assert open_image(folder / "good.png").mode == "RGB"


def test_a_run_gives_each_its_row(folder: Path, tmp_path: Path, opened: visualglm.VisualGLM) -> None:
    with JsonlResults(tmp_path / "out.jsonl") as results:
        CaptionRun(opened, results, CaptionPlan("?", batch_size=4), {"max_new_tokens": 2})(
            read_source(str(folder)), lambda item: None
        )
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(list(folder.iterdir()))
    assert [row["image"] for row in rows if "error" not in row] == ["good.png"]


def test_too_little_memory_is_a_row(
    tmp_path: Path, opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(item: CaptionItem) -> bytes:
        raise MemoryError

    monkeypatch.setattr(CaptionItem, "read", exhausted)
    with JsonlResults(tmp_path / "out.jsonl") as results:
        CaptionRun(opened, results, CaptionPlan("?"), {})([CaptionItem("a.png", SAMPLE)], lambda item: None)
        assert results.failed == 1


def test_an_image_that_takes_too_long_is_a_row(
    tmp_path: Path, opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioning, "DECODE_SECONDS", 0.001)  # shorter than the start of a process
    with JsonlResults(tmp_path / "out.jsonl") as results:
        CaptionRun(opened, results, CaptionPlan("?"), {})([CaptionItem("a.png", SAMPLE)], lambda item: None)
        assert results.failed == 1


def test_lists_and_shards_are_regular_files(folder: Path) -> None:
    os.mkfifo(folder / "fifo.tar")
    with pytest.raises(UsageError, match="not a regular file"):
        read_source(str(folder))
    for name in ("list.jsonl", "list.csv"):
        (folder / name).symlink_to("/dev/zero")
        with pytest.raises(UsageError, match="not a regular file"):
            read_source(str(folder / name))


def test_a_shard_that_claims_a_terabyte(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(SAMPLE, "moon.png")
    (item,) = read_source(str(shard))
    with pytest.raises(ImageError, match="bytes"):
        CaptionItem(item.image, item.file, None, item.offset, 1 << 40).read()
    assert item.read() == SAMPLE.read_bytes()


@pytest.mark.parametrize("name", ["fifo.png", "zero.png", "huge.png"])
def test_ask_and_chat_say_one_sentence(name: str, folder: Path, program: Callable[..., CompletedProcess]) -> None:
    for verb in ("ask", "chat"):
        done = program(verb, str(folder / name))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_stdin_without_end(program: Callable[..., CompletedProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_bytes, "FILE_LIMIT", 3 << 20)
    done = program("ask", "-", stdin=bytes(5 << 20))
    assert done.returncode == 2
    assert "more than 3,145,728 bytes" in done.stderr and done.stderr.count("\n") == 1


def test_an_open_file_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_bytes, "FILE_LIMIT", 3 << 20)
    with Path("/dev/zero").open("rb") as endless, pytest.raises(ImageError, match="more than"):
        open_image(endless)
