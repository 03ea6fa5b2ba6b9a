"""A conversion is complete or not there at all, and takes nobody's files with it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from visualglm.checkpoints import convert, open_checkpoint
from visualglm.checkpoints.storage.atomic_folder import check_not_nested, validate_target
from visualglm.errors import UsageError

from .conftest import assert_same, hf_tensors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(source: Path, target: Path | str, sentence: str, **options: object) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        convert(source, target, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 600


@pytest.fixture
def before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a conversion begins to write."""
    monkeypatch.setattr("visualglm.files.atomic.tempfile.mkdtemp", lambda **options: 1 / 0)


@pytest.fixture
def small_disk(odd: Path) -> Iterator[None]:
    """No file of this process may grow over 30 kB: what a full disk looks like to whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


FOREIGN = [
    "docs/thesis.tex",
    "notes.txt",
    "carried/mine.txt",
    "1/rng.pt",
    "zoo/model.safetensors",
    "other.bin",
    ".git/x",
]


@pytest.mark.parametrize("file", FOREIGN)
@pytest.mark.usefixtures("before_work")
def test_overwrite_spares_foreign_files(odd: Path, tmp_path: Path, file: str) -> None:
    target = Path(shutil.copytree(odd, tmp_path / "target"))
    (target / file).parent.mkdir(exist_ok=True)
    (target / file).write_text("years of work")
    refused(odd, target, f"target holds {file}, which is not a checkpoint's file", overwrite=True)
    assert (target / file).read_text() == "years of work"


def test_a_link_to_a_folder_is_foreign(odd: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/1").symlink_to(odd)
    refused(odd, tmp_path / "target", "holds 1, which is not a checkpoint's file", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    convert(odd, tmp_path / "link", with_fingerprint=False)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real/config.json").is_file()


@pytest.mark.parametrize("layout", ["native", "hf", "sat"])
def test_overwrite_replaces_what_conversions_write(hf: Path, sat: Path, tmp_path: Path, layout: str) -> None:
    target = convert(sat, tmp_path / "target", layout, tokenizer=hf, max_shard_size=100_000)
    (target / "README.md").write_text("a card")
    refused(hf, target, "target is not empty. Give another folder, or --overwrite")
    convert(hf, target, "hf", overwrite=True, with_fingerprint=False)
    assert open_checkpoint(target).layout == "hf" and not (target / "README.md").exists()
    assert names(tmp_path) == ["hf", "sat", "target"]


@pytest.mark.usefixtures("before_work")
def test_places_that_cannot_be_replaced(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here/deeper"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    refused(odd, ".", "deeper is the current directory")
    refused(odd, "..", "here holds the current directory", overwrite=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "disk")
    refused(odd, tmp_path / "disk", "disk is a mount point")
    monkeypatch.chdir("/")
    refused(odd, odd / "config.json", "is a file. Give a new folder", overwrite=True)


@pytest.mark.usefixtures("before_work")
def test_source_and_target_stay_apart(odd: Path, sat: Path, tmp_path: Path) -> None:
    refused(odd, odd, "odd is the source itself", overwrite=True)
    refused(odd / "config.json", odd, "odd is the source itself", overwrite=True)
    refused(sat / "1", sat, "sat is the source itself", overwrite=True)
    refused(odd, odd / "out", "out is inside the source")
    (tmp_path / "link").symlink_to(sat)
    refused(tmp_path / "link", sat / "new", "new is inside the source")
    around = tmp_path / "around"
    shutil.copytree(sat, around)
    shutil.copy(sat / "model_config.json", around / "1")
    refused(around / "1", around, "The source .*1 is inside .*around|holds 1/model_config", overwrite=True)


def test_source_inside_a_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The source .*carried is inside .*out, which would be replaced"):
        check_not_nested(tmp_path / "out", tmp_path / "out/carried")


def test_target_is_complete_or_untouched(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Path(shutil.copytree(odd, tmp_path / "target"))
    monkeypatch.setattr("visualglm.checkpoints.fingerprint.record", lambda checkpoint: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(odd, target, overwrite=True)
    assert_same(hf_tensors(target), hf_tensors(odd))
    assert names(tmp_path) == ["odd", "target"]


def test_a_file_saved_meanwhile_is_spared(odd: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(odd, tmp_path / "target"))
    refused(
        odd,
        target,
        "target holds meanwhile",
        overwrite=True,
        with_fingerprint=False,
        report=lambda step: (target / "meanwhile").write_text("x"),
    )
    assert (target / "meanwhile").exists() and names(tmp_path) == ["odd", "target"]


def test_the_old_folder_comes_back_when_the_rename_fails(
    odd: Path, sat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Path(shutil.copytree(odd, tmp_path / "target"))
    rename = Path.rename

    def refuse_the_new(self: Path, to: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    refused(sat, target, "target cannot be written .Input/output error", overwrite=True, with_fingerprint=False)
    assert_same(hf_tensors(target), hf_tensors(odd))
    assert names(tmp_path) == ["odd", "sat", "target"]

    def refuse_both(self: Path, to: Path) -> Path:
        if self.name in ("new", "old"):
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse_both)
    refused(sat, target, "Input/output error: .*old", overwrite=True, with_fingerprint=False)
    (kept,) = tmp_path.glob(".target-*/old")
    assert_same(hf_tensors(kept), hf_tensors(odd))


@pytest.mark.parametrize("layout", ["native", "hf", "sat"])
@pytest.mark.usefixtures("small_disk")
def test_a_full_disk(odd: Path, tmp_path: Path, layout: str) -> None:
    refused(odd, tmp_path / "target", "target cannot be written .*File too large", to=layout, with_fingerprint=False)
    assert names(tmp_path) == ["odd"]


@pytest.mark.usefixtures("before_work")
def test_places_nothing_can_be_written_to(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(odd, odd / "config.json/out", "is inside the source")
    (tmp_path / "file").write_text("x")
    refused(odd, tmp_path / "file/out", "file/out cannot be written .*(Not a directory|File exists)")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 9))
    refused(odd, tmp_path / "out", r"needs [\d.]+ [kM]B, but 0\.009 kB are free on its disk")


def test_a_folder_that_cannot_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "config.json").write_text("{}")
    scan = os.scandir

    def closed(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UsageError, match=r"cannot be written .Permission denied: .*closed"):
        validate_target(tmp_path, overwrite=True)
