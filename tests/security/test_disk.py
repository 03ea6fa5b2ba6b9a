"""Writers: no link is followed, and neither a kill, a power loss nor a full disk costs what was finished."""

from __future__ import annotations

import ast
import errno
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import save_file

import visualglm
from visualglm.adapters import files as adapter_files
from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.local_engine import check_sidecars, remove_torn_sidecars, write_missing_sidecars
from visualglm.captioning.sources import CaptionItem
from visualglm.checkpoints.storage.atomic_folder import atomic_folder, check_free_space, validate_target
from visualglm.checkpoints.storage.read import save_torch
from visualglm.cli.chat import Dialogue
from visualglm.errors import UsageError
from visualglm.files import atomic
from visualglm.finetuning import image_feature_cache, trainable_model
from visualglm.finetuning.config import read_finetuning
from visualglm.finetuning.html_report import Answered, curves, write_report
from visualglm.finetuning.resume import checkpoint_to_resume, read_before, write_recipe
from visualglm.finetuning.saved_checkpoint import SEAL, describe, is_whole, writing
from visualglm.finetuning.trainable_model import TRAINED
from visualglm.finetuning.trainer import METRICS, read_metrics
from visualglm.hardware.memory import in_words
from visualglm.pretraining.run_state import SAVING, read_run_state, saving

from ..conftest import REFERENCE

pytestmark = pytest.mark.slow

PACKAGE = Path(visualglm.__file__).parent
SECRET = "somebody's own"
ROW = {"image": "a.png", "question": "?", "text": "甲"}
OTHER = {**ROW, "image": "b.png"}


def refused(message: str, sentence: str) -> None:
    assert sentence in message and "\n" not in message and message.endswith(".") and "Traceback" not in message


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """Yield a file that planted links point to; it must stay as it is."""
    file = tmp_path / "victim"
    file.write_text(SECRET)
    yield file
    assert file.read_text() == SECRET and not file.is_symlink()


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow over 4 kB: what a full disk looks like to whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Every writer

SAFE_FOLDERS = {
    "files/atomic.py": "writes for all others",
    "checkpoints/storage/read.py": "writes into folders of a conversion that nobody else has seen",
    "checkpoints/storage/write.py": "the same",
    "checkpoints/formats/hugging_face.py": "the same",
    "checkpoints/formats/sat.py": "the same",
    "checkpoints/fingerprint.py": "the same",
    "checkpoints/convert.py": "the same",
    "checkpoints/save_sat.py": "the same",
    "checkpoints/storage/shards.py": "the same",
    "adapters/files.py": "writes into checkpoint folders that are made new, and into a scratch folder",
    "finetuning/trainable_model.py": "the same",
    "finetuning/run.py": "the same",
    "finetuning/fsdp_trainer.py": "the same",
    "finetuning/image_feature_cache.py": "a new file in a scratch folder",
    "pretraining/run_state.py": "writes into a folder that is made new",
    "pretraining/trainer.py": "the same",
    "captioning/parquet_results.py": "a new file in the run's own folder",
    "files/untrusted_files.py": "opens for reading only",
    "preprocessing/image_worker.py": "writes to its own standard output",
}
LABORATORY = (
    "evaluation/",
    "training/pictures/",
    "visualglm_lab/training/export.py",
    "visualglm_lab/training/build_vocabulary.py",
    "scenes/",
)
WRITES = {"write_text", "write_bytes", "save_file", "copyfile", "copy", "copy2", "NamedTemporaryFile", "mkstemp"}


def _writes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name == "copy":
        return ast.unparse(node.func) == "shutil.copy"
    if name in WRITES or ast.unparse(node.func) in ("torch.save", "np.save", "os.open", "io.FileIO"):
        return True
    words = [
        value for value in (*node.args, *(word.value for word in node.keywords)) if isinstance(value, ast.Constant)
    ]
    modes = {word.value for word in words if isinstance(word.value, str)}
    return name == "open" and any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)


def test_every_writer_goes_through_one_file() -> None:
    found = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if not name.startswith(LABORATORY) and any(map(_writes, ast.walk(ast.parse(file.read_text("utf-8"))))):
            found.add(name)
    assert found <= set(SAFE_FOLDERS), "use checkpoints/atomic, or say why the folder is safe"


# Links


def test_a_link_is_replaced_or_refused(victim: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(victim)
    with pytest.raises(UsageError, match="symbolic link") as caught:
        atomic.append_line(link, "x")
    refused(str(caught.value), "link cannot be written (it is a symbolic link)")
    atomic.write_file(link, "new")
    assert not link.is_symlink() and link.read_text() == "new"


def test_a_hard_link_is_no_way_to_another_file(victim: Path, tmp_path: Path) -> None:
    (tmp_path / "link").hardlink_to(victim)
    atomic.write_file(tmp_path / "link", "new")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/null") if kind == "device" else tmp_path / kind
    os.mkfifo(path) if kind == "pipe" else path.mkdir(exist_ok=True) if kind == "folder" else None
    for write in (atomic.write_file, atomic.append_line):
        with pytest.raises(UsageError, match="cannot be written") as caught:
            write(path, "x")
        refused(str(caught.value), f"{path} cannot be written")
    assert path.exists() and not path.is_file()


def test_permissions_stay(tmp_path: Path) -> None:
    file = tmp_path / "private"
    file.write_text("")
    file.chmod(0o600)
    atomic.write_file(file, "x")
    assert file.stat().st_mode & 0o777 == 0o600
    before = os.umask(0o027)
    atomic.write_file(tmp_path / "new", "x")
    os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["out.jsonl", ".out.jsonl.lock"])
def test_rows_do_not_go_through_a_link(victim: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(UsageError, match="symbolic link"):
        JsonlResults(tmp_path / "out.jsonl")


def test_files_beside_rows_replace_a_link(victim: Path, tmp_path: Path) -> None:
    for name in (".out.jsonl.run.json", "a.txt"):
        (tmp_path / name).symlink_to(victim.with_name("nothing yet") if name == "a.txt" else victim)
    item = CaptionItem("a.png", tmp_path / "a.png")
    check_sidecars([item])
    with JsonlResults(tmp_path / "out.jsonl") as results:
        results.check_run({"source": "x"})
    write_missing_sidecars([item], [ROW], "?")
    assert (tmp_path / "a.txt").read_text() == "甲\n" and not (tmp_path / "nothing yet").exists()
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UsageError, match="not a regular file"):
        check_sidecars([item])


def test_save_refuses_a_link(opened: visualglm.VisualGLM, victim: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(victim)
    dialogue = Dialogue(opened.conversation(), Console(quiet=True), {})
    with pytest.raises(UsageError, match="symbolic link"):
        dialogue.save(tmp_path / "link")
    dialogue.save(tmp_path / "real")
    assert (tmp_path / "real").read_text() == "[]\n"


def test_a_training_run_replaces_links(victim: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("recipe.json", "report.html", "adapter_model.safetensors", METRICS):
        (out / name).symlink_to(victim)
    (out / "checkpoint-2").symlink_to(tmp_path)
    (out / SAVING).symlink_to(tmp_path)
    plan = read_finetuning(None, (), data=str(victim), output=str(out), method="lora", model=None)
    write_recipe(plan, out)
    nothing = Answered([], [], [])
    write_report(out / "report.html", [], [], nothing, nothing)
    with atomic.install_files(out) as fresh:
        (fresh / "adapter_model.safetensors").write_text("x")
    with writing(out / "checkpoint-2"):
        (out / "checkpoint-2" / "victim").write_text("x")
    with saving(out) as fresh:
        (fresh / "victim").write_text("x")
    with pytest.raises(UsageError, match="symbolic link"):
        atomic.append_line(out / METRICS, "{}")
    assert [path.name for path in out.iterdir() if path.is_symlink()] == [METRICS]


# Kills and leftovers


def test_a_kill_at_any_call_leaves_the_old_or_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, killed = set(), True
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "chmod", "close")}
    count = 0
    while killed:
        file = tmp_path / "file"
        file.write_text("old")
        left = count = count + 1

        def call(name: str, *arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real[name](*arguments, **named)

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, lambda *a, name=name, **k: call(name, *a, **k))
            try:
                atomic.write_file(file, "new")
                killed = False
            except KeyboardInterrupt:
                pass
        seen.add(file.read_text())
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert seen == {"old", "new"} and file.read_text() == "new" and count > 3


def test_the_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        done = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, done=done: calls.append(name) or done(*a))
    atomic.write_file(tmp_path / "file", "x")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up(tmp_path: Path, number: int) -> None:
    outside = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, and then it stays so
    try:
        _end_by_signal(tmp_path, number)
    finally:
        signal.signal(number, outside)
    assert list(tmp_path.iterdir()) == []


def _end_by_signal(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, atomic.scratch_folder(tmp_path, "merged") as scratch:
        (scratch / "model").write_text("large")
        signal.raise_signal(number)  # to this thread: os.kill may reach another one, and nothing would wake this one
    assert ended.value.code == 128 + number and signal.getsignal(number) == before


def killed(work: Callable[[], None]) -> None:
    """Run the work in a process that kills itself at its end."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def leave(folder: Path, name: str, content: str = "model") -> None:
    with atomic.scratch_folder(folder, name) as scratch:
        (scratch / content).mkdir()
        (scratch / content / "file").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_next_run_deletes_what_a_dead_one_left_and_nothing_else(tmp_path: Path) -> None:
    killed(lambda: leave(tmp_path, "merged"))
    killed(lambda: leave(tmp_path, "other"))
    (dead,) = tmp_path.glob(".merged-*")
    foreign = dead.rename(tmp_path / dead.name.replace(atomic.SUFFIX, ".elsewhere.visualglm"))
    killed(lambda: leave(tmp_path, "merged"))
    (tmp_path / ".merged-mine").mkdir()
    with atomic.scratch_folder(tmp_path, "merged") as alive:
        child = os.fork()
        if not child:  # another run beside it
            with atomic.scratch_folder(tmp_path, "merged"):
                pass
            os._exit(0)
        os.waitpid(child, 0)
        assert alive.is_dir()
        assert set(tmp_path.glob(".merged-*")) == {alive, foreign, tmp_path / ".merged-mine"}
    assert len(list(tmp_path.glob(".other-*"))) == 1


def test_torn_sidecars_go(tmp_path: Path) -> None:
    def tear() -> None:
        with atomic.open_replacement(tmp_path / "a.txt") as file:
            file.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    killed(tear)
    assert len(list(tmp_path.iterdir())) == 1
    remove_torn_sidecars([CaptionItem("a.png", tmp_path / "a.png")])
    assert list(tmp_path.iterdir()) == []


def test_an_old_folder_that_a_killed_swap_took_away_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "target"
    killed(lambda: leave(tmp_path, "target", "old"))
    assert not place.exists()
    with pytest.raises(UsageError, match="not empty"):
        validate_target(place, overwrite=False)
    assert (place / "file").read_text() == "x" and [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_long_name_has_room(tmp_path: Path) -> None:
    for name in ("图" * 80, "图" * 79 + "画"):
        atomic.write_file(tmp_path / name, name)
        with atomic_folder(tmp_path / f"{name}.d", overwrite=False) as new:
            (new / "file").write_text(name)
    assert len(list(tmp_path.iterdir())) == 4


# A power loss


def lines(*rows: dict[str, str]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


ZEROS = b"\0" * 5000


@pytest.mark.parametrize(
    "content, kept",
    [
        (ZEROS, []),
        (lines(ROW) + ZEROS, [ROW]),
        (lines(ROW) + ZEROS + b"\n", [ROW]),
        (lines(ROW) + lines(OTHER)[:-1] + ZEROS, [ROW, OTHER]),
        (lines(ROW) + lines(OTHER)[:30] + ZEROS, [ROW]),
        (lines(ROW) + lines(OTHER)[:30] + ZEROS + lines(OTHER)[-9:], [ROW]),
        (lines(ROW) + ZEROS + lines(OTHER), [ROW, OTHER]),
        (lines(ROW) + lines(OTHER)[:30] + ZEROS + b"12}\n" + lines(OTHER), [ROW, OTHER]),
        (lines(ROW) + b'{"image": "' + ZEROS + lines(OTHER) + ZEROS, [ROW, OTHER]),
    ],
)
def test_zeros_in_rows_are_cut_out(tmp_path: Path, content: bytes, kept: list[dict[str, str]]) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(content)
    for _ in range(2):
        with JsonlResults(out) as results:
            assert list(results.rows()) == kept and set(results.finished) == {row["image"] for row in kept}
        assert out.read_bytes() == lines(*kept)


@pytest.mark.parametrize("content", [b"\0\0\0\x18ftypmp42\n", b"MZ\0\0rest", ZEROS + b"notes\n", lines(ROW) + b"a\0\n"])
def test_a_file_of_something_else_with_zeros_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match="not a row of results"):
        JsonlResults(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"source": "x', b"\0" * 40, b"[]", b"[" * 100_000, b"\xff"])
def test_a_torn_note_costs_one_sentence(tmp_path: Path, content: bytes) -> None:
    note = tmp_path / ".out.jsonl.run.json"
    (tmp_path / "out.jsonl").write_bytes(lines(ROW))
    note.write_bytes(content)
    with JsonlResults(tmp_path / "out.jsonl") as results:
        with pytest.raises(UsageError, match="is damaged") as caught:
            results.check_run({"source": "x"})
        refused(str(caught.value), str(note))
        note.unlink()
        results.check_run({"source": "x"})
        results.check_run({"source": "x"})
    assert json.loads(note.read_text()) == {"source": "x"}


def test_torn_metrics_are_left_out(tmp_path: Path) -> None:
    good = {"step": 1, "loss": 2.0}
    torn = [
        '{"step": 2, "lo',
        "\0\0\0",
        "[]",
        "3",
        '{"loss": 1}',
        '{"step": "x"}',
        '{"step": 1, "loss": "x"}',
        "[" * 9999,
    ]
    (tmp_path / METRICS).write_text(
        "\n".join([json.dumps(good), *torn]) + "\0\0" + json.dumps({"step": 3, "loss": 1.0})
    )
    rows = read_metrics(tmp_path / METRICS)
    assert rows == [good, {"step": 3, "loss": 1.0}] and "data:image/svg" in curves(rows)


@pytest.fixture
def begun(tmp_path: Path) -> Any:
    """Return a run with two whole checkpoints, as far as `checkpoint_to_resume` looks."""
    (tmp_path / "data.json").write_text("[]")
    out = tmp_path / "out"
    plan = read_finetuning(None, (), data=str(tmp_path / "data.json"), output=str(out), method="lora", model=None)
    write_recipe(plan, out)
    for step in (2, 4):
        with writing(out / f"checkpoint-{step}"):
            save_file({"a": torch.ones(300)}, out / f"checkpoint-{step}" / TRAINED)
            save_torch({"b": torch.ones(300)}, out / f"checkpoint-{step}" / "optimizer.pt")
            (out / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    return plan


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "zero tail": lambda content: content[:-20] + b"\0" * 20,
    "longer": lambda content: content + b"\0" * 4096,
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}


@pytest.mark.parametrize("name", [TRAINED, "optimizer.pt", "trainer_state.json", SEAL])
@pytest.mark.parametrize("damage", [*DAMAGE, "gone"])
def test_a_damaged_checkpoint_is_passed_over(begun: Any, name: str, damage: str) -> None:
    out, said = Path(begun.output), list[str]()
    file = out / "checkpoint-4" / name
    file.unlink() if damage == "gone" else file.write_bytes(DAMAGE[damage](file.read_bytes()))
    assert checkpoint_to_resume(begun, out, True, said.append) == str(out / "checkpoint-2")
    assert len(said) == 1 and "checkpoint-4 is damaged" in said[0]
    (out / "checkpoint-2" / TRAINED).write_bytes(b"")
    with pytest.raises(UsageError, match="no complete checkpoint"):
        checkpoint_to_resume(begun, out, True, said.append)


@pytest.mark.parametrize("name", [SEAL, TRAINED])
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero"])
def test_a_checkpoint_of_pipes_is_passed_over(begun: Any, name: str, kind: str) -> None:
    out = Path(begun.output)
    (out / "checkpoint-4" / name).unlink()
    os.mkfifo(out / "checkpoint-4" / name) if kind == "fifo" else (out / "checkpoint-4" / name).symlink_to(kind)
    assert checkpoint_to_resume(begun, out, True) == str(out / "checkpoint-2")


def test_a_seal_reads_its_own_folder_alone(begun: Any, victim: Path) -> None:
    folder = Path(begun.output) / "checkpoint-4"
    (folder / SEAL).write_text(json.dumps({str(victim): describe(victim)}))
    assert not is_whole(folder)


@pytest.mark.parametrize("content", ['{"files": []}', "[]", "1" * 5000, "[" * 100_000])
def test_a_recipe_of_something_else_costs_one_sentence(begun: Any, content: str) -> None:
    (Path(begun.output) / "recipe.json").write_text(content)
    with pytest.raises(UsageError, match="Start a new run"):
        checkpoint_to_resume(begun, Path(begun.output), True)


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch])
def test_an_output_that_is_no_folder(begun: Any, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a folder"):
        checkpoint_to_resume(begun, tmp_path / "pipe", False)


def test_untrained_answers_that_were_torn_are_asked_again(tmp_path: Path) -> None:
    for content in ("", '{"asked": [[], []]}', "\0\0", "[5, 5]", '[["x"], []]', '{"asked": [[], []], "answers": 5}'):
        (tmp_path / "before.json").write_text(content)
        assert read_before(tmp_path, [[], []]) is None


@pytest.mark.parametrize(
    "content",
    [
        *("", "\0" * 30, "{", "[" * 100_000, '{"stage": "x"}', '{"stage": -1}', '{"step": []}', '{"stages": 1}'),
        *('{"recipe": 5}', '{"recipe": {}}', '{"seconds": null}', '{"step": ' + "1" * 5000 + "}"),
    ],
)
def test_torn_progress_costs_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "progress.json").write_text(content)
    with pytest.raises(UsageError, match="is damaged"):
        read_run_state(tmp_path, {})


# A full disk


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_costs_one_sentence_that_names_the_file(tmp_path: Path) -> None:
    large = {"a": torch.ones(5000)}
    (tmp_path / "file").write_text("old")

    def install(write: Callable[[Path], object]) -> None:
        with atomic.install_files(tmp_path) as fresh:
            write(fresh / "file")

    for write in (
        lambda: atomic.write_file(tmp_path / "file", "x" * 5000),
        lambda: atomic.append_line(tmp_path / "file", "x" * 5000),
        lambda: install(lambda file: save_file(large, file)),
        lambda: install(lambda file: torch.save(large, str(file))),
        lambda: install(lambda file: save_torch(large, file)),
        lambda: install(lambda file: file.write_text("x" * 5000)),
    ):
        with pytest.raises(UsageError, match="cannot be written") as caught:
            write()
        refused(str(caught.value), str(tmp_path))
        assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("small_disk")
def test_rows_before_a_full_disk_stay_whole(tmp_path: Path) -> None:
    out, count = tmp_path / "out.jsonl", 0
    with pytest.raises(UsageError, match=r"out\.jsonl cannot be written .File too large"), JsonlResults(out) as results:
        while True:
            results.write({**ROW, "image": str(count)})
            count += 1
    assert count > 50 and len(out.read_bytes().splitlines()) == count and out.read_bytes().endswith(b"\n")
    with JsonlResults(out) as results:
        assert len(results.finished) == count


def test_a_save_that_fails_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A whole run: the second save meets a full disk; --resume goes on from the first and ends."""
    image = str(REFERENCE / "images" / "rgb.png")
    rows = [{"img": image, "prompt": "图？", "label": "a"}] * 2
    (tmp_path / "data.json").write_text(json.dumps(rows))
    settings = ("batch=2", "epochs=2", "validation_share=0.0", "answers=0", "max_new_tokens=1")
    arguments = [
        "finetune",
        "--data",
        str(tmp_path / "data.json"),
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    arguments += ["--model", str(REFERENCE / "hf"), *(word for setting in settings for word in ("--set", setting))]
    real, calls = trainable_model.save_file, 0

    def save(*given: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # of a save there are two: what trains, and the adapter
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(*given, **named)

    for module in (trainable_model, adapter_files):
        monkeypatch.setattr(module, "save_file", save)
    done = program(*arguments)
    assert done.returncode == 2 and "checkpoint-2 cannot be written (No space left on device)" in done.stderr
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-1"]
    with (tmp_path / "out" / METRICS).open("a") as file:
        file.write('{"step": 2, "los\0\0')
    done = program(*arguments, "--resume")
    assert done.returncode == 0 and (tmp_path / "out" / "report.html").is_file(), done.stderr
    assert not [path for path in tmp_path.rglob("*.visualglm")]


def test_vectors_of_images_need_room_before_they_are_made(
    opened: visualglm.VisualGLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were written through a mapping: a full disk was SIGBUS."""
    monkeypatch.setattr(
        image_feature_cache, "encode_pixels", lambda model, pixels: torch.ones(1, 32, model.config.hidden_size)
    )
    images: Any = SimpleNamespace(read=lambda path: path)
    made = image_feature_cache.compute_features(opened.model, images, ["a", "b", "a"], tmp_path / "file")
    assert torch.equal(made["b"], torch.ones(made["b"].shape)) and len(made.numbers) == 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    try:
        with pytest.raises(UsageError, match="other cannot be written"):
            image_feature_cache.compute_features(opened.model, images, ["a"], tmp_path / "other")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1}))
    with pytest.raises(UsageError, match="free on its disk"):
        image_feature_cache.compute_features(opened.model, images, ["a"], tmp_path / "third")


def test_an_error_of_something_else_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), atomic.explain_write_errors(tmp_path):
        raise RuntimeError("shapes differ")


def test_sizes_are_told_in_their_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [0, 3_200, 999_400, 999_600, 12_000_000, 999_400_000, 999_600_000, 6_430_000_000]
    assert [in_words(size) for size in sizes] == [
        *("0 kB", "3.2 kB", "999 kB", "1 MB", "12 MB", "999 MB", "1.00 GB", "6.43 GB")
    ]
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3_000_000}))
    with pytest.raises(UsageError, match="needs 12 MB, but 3 MB are free"):
        check_free_space(tmp_path / "new", 12_000_000)


def test_a_write_error_without_a_name_is_given_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, atomic.explain_write_errors(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    refused(str(caught.value), f"{tmp_path / 'file'} cannot be written (No space left on device)")
