"""A stranger's data: lists, tars, recipes and rows that would take for ever, or all memory; each is one sentence."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

import visualglm
from visualglm.captioning import sources
from visualglm.captioning.sources import read_source
from visualglm.datasets import row_files
from visualglm.datasets.data_files import DataFile
from visualglm.datasets.row_files import RowError
from visualglm.errors import ImageError, UsageError
from visualglm.finetuning.config import layer_numbers, read_finetuning
from visualglm.finetuning.dataset import FinetuningDataset
from visualglm.preprocessing.images import open_image
from visualglm.pretraining.caption_batches import CaptionBatches
from visualglm.training.toml_settings import read_table
from visualglm.training.worker_errors import plain_worker_errors

ROW = {"img": "", "prompt": "q", "label": "a"}
UNENDED = {
    "escaped quotes": b"[" + b'"' + b'\\"' * 200_000,
    "escaped quotes and a backslash": b"[" + b'"' + b'\\"' * 200_000 + b"\\",
    "quotes": b"[" + b'"a" ' * 200_000 + b'"',
    "brackets": b"[" * 400_000,
    "words": b"[" + b"a" * 400_000 + b'"' + b"a\\" * 200_000,
}


@pytest.mark.parametrize("case", UNENDED)
def test_lists_are_read_in_linear_time(tmp_path: Path, case: str) -> None:
    """400 KB took minutes: from every quote, the rest of the file was read again."""
    (tmp_path / "rows.json").write_bytes(UNENDED[case])
    started = time.process_time()
    with pytest.raises(UsageError):
        DataFile(tmp_path / "rows.json")[0]
    assert time.process_time() - started < 5


def test_a_long_text_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    """It took 116 bytes a character."""
    (tmp_path / "rows.json").write_text(json.dumps([{**ROW, "prompt": "x" * 3_000_000}, ROW]))
    tracemalloc.start()
    try:
        assert len(DataFile(tmp_path / "rows.json")) == 2
        assert tracemalloc.get_traced_memory()[1] < 15_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "row",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"prompt": ' + b"9" * 5_000 + b', "label": "a"}',
        b'{"prompt": {"x": [' + b"1," * 100_000 + b'1]}, "label": "a"}',
        b'{"prompt": "\xff", "label": "a"}',
    ],
)
def test_rows(tmp_path: Path, row: bytes) -> None:
    for name, content in (("rows.jsonl", row + b"\n"), ("rows.json", b"[" + row + b"]")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RowError) as caught:
            DataFile(tmp_path / name)[0]
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["rows.json", "list.jsonl", "list.csv", "shard.tar", "recipe.toml"])
def test_files_that_never_end(tmp_path: Path, name: str, program: Callable[..., CompletedProcess]) -> None:
    for made in (os.mkfifo, lambda place: place.symlink_to("/dev/zero")):
        made(tmp_path / name)
        if name == "recipe.toml":
            done = program("finetune", str(tmp_path / name))
        elif name == "rows.json":
            done = program("finetune", "--data", str(tmp_path / name), "--output", str(tmp_path / "out"))
        else:
            done = program("caption", str(tmp_path / name), "-o", str(tmp_path / "out.jsonl"))
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        (tmp_path / name).unlink()


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5_000, '{"image": {"x": 1}}', "\x00", '"\x1b[31m"'])
def test_lists(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError) as caught:
        read_source(str(tmp_path / "list.jsonl"))
    assert str(caught.value).isprintable()


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "MOST_BYTES", 1000)
    for name in ("list.jsonl", "list.csv"):
        (tmp_path / name).write_text("image,question\n" * (name == "list.csv") + "x" * 2000)
        with pytest.raises(UsageError, match="one row per line"):
            read_source(str(tmp_path / name))


def header(name: str = "a.png", size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


TARS = {
    "a picture of 8 EB": header(size=1 << 62),
    "a picture that is not all there": header(size=5000) + b"x" * 512,
    "a long name of 4 GB": header("x", 1 << 32, tarfile.GNUTYPE_LONGNAME) + bytes(512),
    "an extra header of 4 GB": header("x", 1 << 32, tarfile.XHDTYPE) + bytes(512),
    "a size below 0": header("x", 0, tarfile.GNUTYPE_LONGNAME).replace(b"00000000000\0", b"\xff" * 12, 1),
    "names of names": header("x", 512, tarfile.GNUTYPE_LONGNAME) + bytes(512),
    "holes": header("a.png", 512, tarfile.GNUTYPE_SPARSE)[:482] + b"\1" + b"\xff" * 29 + bytes(512),
    "noise": b"a.png" + bytes(range(256)) * 10,
}


@pytest.mark.parametrize("case", TARS)
def test_tars(tmp_path: Path, case: str) -> None:
    repeat = 3000 if case == "names of names" else 1
    (tmp_path / "a.tar").write_bytes(TARS[case] * repeat + bytes(1024))
    started = time.process_time()
    with pytest.raises(UsageError):
        read_source(str(tmp_path / "a.tar"))
    assert time.process_time() - started < 5


def test_a_glob_that_cannot_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(*_: object) -> None:
        raise OSError(22, "Invalid argument", "net")

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match="cannot be searched"):
        read_source(f"{tmp_path}/**/*.png")


def test_a_tar_of_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for number in range(30):
            made.addfile(tarfile.TarInfo(f"{number}.txt"))
        made.addfile(tarfile.TarInfo("p.png"), io.BytesIO())
    assert len(read_source(str(tmp_path / "a.tar"))) == 1
    monkeypatch.setattr(sources, "MOST_MEMBERS", 20)
    with pytest.raises(UsageError, match="Split it"):
        read_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    "text", [b"a = " + b"[" * 100_000, b"a = " + b"9" * 5_000, b"\xff", b"a = 1\n" * 300_000, b"a.a = 1\na = 2"]
)
def test_recipes(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "r.toml").write_bytes(text)
    with pytest.raises(UsageError):
        read_table(tmp_path / "r.toml")
    with pytest.raises(UsageError):
        read_finetuning(None, (text.decode("latin-1"),), data="x", output="y")


@pytest.mark.parametrize("layers", ["0-999999999", "9" * 5_000, "0-" + "9" * 30, "3-1"])
def test_layers_of_a_recipe(layers: str) -> None:
    with pytest.raises(UsageError):
        layer_numbers(layers, 28)
    assert layer_numbers("0-2, 5", 28) == [0, 1, 2, 5]


def test_a_key_of_thousands_of_parts(tmp_path: Path) -> None:
    """tomllib takes quadratic time: 13 s for 50 KB."""
    (tmp_path / "r.toml").write_bytes(b"a" + b".a" * 25_000 + b" = 1")
    with pytest.raises(UsageError, match="cannot be read"):
        read_table(tmp_path / "r.toml")


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b'{"image":' + b"1" * 5000 + b"}", b"a" * (1 << 20)])
def test_captions_to_pretrain_on(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=r"c\.jsonl"):
        captions(tmp_path / "c.jsonl")


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "folder"])
def test_captions_that_never_end(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "c.jsonl"
    {"fifo": os.mkfifo, "/dev/zero": lambda file: file.symlink_to(kind), "folder": os.mkdir}[kind](file)
    with pytest.raises(UsageError, match="cannot be read"):
        captions(file)


def captions(file: Path) -> CaptionBatches:
    nothing: Any = None
    return CaptionBatches(str(file), nothing, nothing, False, nothing)


def test_a_dialogue_of_thousands_of_turns(tmp_path: Path, opened: visualglm.VisualGLM) -> None:
    """Is measured whole before its beginnings are, which takes quadratic time."""
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")] * 10_000
    (tmp_path / "d.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    started = time.process_time()
    with pytest.raises(RowError, match="Shorten it"):
        FinetuningDataset(DataFile(tmp_path / "d.jsonl"), opened.processor, 512)
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    "command",
    [
        ("caption", "{long}", "-o", "out.jsonl"),
        ("caption", "{mini}", "-o", "{long}"),
        ("caption", "{mini}", "-o", ""),
        ("finetune", "{long}"),
        ("finetune", "--data", "{long}"),
        ("convert", "{mini}", "{long}"),
        ("convert", "{long}", "out"),
        ("fit", "--model", "{long}"),
    ],
)
def test_a_name_that_no_file_can_have(command: tuple[str, ...], program: Callable[..., CompletedProcess]) -> None:
    done = program(*(part.format(long="a" * 300, mini=visualglm.packed_model()) for part in command))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


class _Pipes(Dataset[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return open_image("/dev/zero")


def test_an_error_of_a_worker_is_one_sentence() -> None:
    with pytest.raises(ImageError) as caught, plain_worker_errors():
        next(iter(DataLoader(_Pipes(), num_workers=1)))
    with pytest.raises(ImageError) as here, plain_worker_errors():
        open_image("/dev/zero")
    assert str(caught.value) == str(here.value) and "Traceback" not in str(here.value)
