"""The run: answers are those of `ask`, broken images are rows, a kill at any moment costs and repeats nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import visualglm
from visualglm.captioning.jsonl_results import JsonlResults
from visualglm.captioning.local_engine import CaptionPlan, CaptionRun, check_sidecars
from visualglm.captioning.sources import read_source
from visualglm.cli.options import Flags
from visualglm.errors import UsageError
from visualglm.inference.running_batch import RunningBatch
from visualglm.inference.text_row import TextRow

pytestmark = pytest.mark.slow

SAMPLES = sorted((visualglm.packed_model() / "samples").glob("*.png"))
QUESTION = "What is in the picture?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for sample in SAMPLES:
        shutil.copy(sample, root)
    (root / "broken.png").write_bytes(SAMPLES[0].read_bytes()[:200])
    return root


def caption(
    opened: visualglm.VisualGLM, source: Path, out: Path, plan: CaptionPlan, retry: bool = False, **sampling: Any
) -> int:
    """How many items were answered now."""
    with JsonlResults(out) as results:
        if retry:
            results.forget_failed()
        run, seen = CaptionRun(opened, results, plan, sampling), []
        run(results.waiting(read_source(str(source)), plan.question), seen.append)
    return len(seen)


def rows(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    keyed = {(line["image"], line["question"]): line for line in lines}
    assert len(keyed) == len(lines), "no row is written twice"
    return keyed


@pytest.mark.parametrize(
    "sampling", [{}, {"do_sample": True, "seed": 5, "temperature": 1.2, "repetition_penalty": 1.1}]
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_say_what_ask_says(
    opened: visualglm.VisualGLM, folder: Path, tmp_path: Path, batch_size: int, sampling: dict[str, Any]
) -> None:
    out = tmp_path / "out.jsonl"
    assert caption(opened, folder, out, CaptionPlan(QUESTION, batch_size=batch_size), **sampling) == len(SAMPLES) + 1
    written = rows(out)
    assert "error" in written.pop(("broken.png", QUESTION))
    for (image, question), row in written.items():
        answer = opened.ask(folder / image, question, **sampling)
        assert (row["text"], row["finish_reason"]) == (answer.text, answer.finish_reason)


def test_a_second_run_repeats_nothing_and_retries_what_failed(
    opened: visualglm.VisualGLM, folder: Path, tmp_path: Path
) -> None:
    out, plan = tmp_path / "out.jsonl", CaptionPlan(QUESTION)
    caption(opened, folder, out, plan)
    before = out.read_bytes()
    assert caption(opened, folder, out, plan) == 0
    assert out.read_bytes() == before
    shutil.copy(SAMPLES[0], folder / "broken.png")
    assert caption(opened, folder, out, plan, retry=True) == 1
    assert not any("error" in row for row in rows(out).values())


def test_each_line_of_a_list_has_its_question(opened: visualglm.VisualGLM, folder: Path, tmp_path: Path) -> None:
    wanted = [
        (SAMPLES[0].name, "这是什么？"),
        (SAMPLES[0].name, QUESTION),
        (SAMPLES[1].name, "How many objects are there?"),
    ]
    listed = folder / "list.jsonl"
    listed.write_text("\n".join(json.dumps({"image": image, "question": question}) for image, question in wanted))
    caption(opened, listed, tmp_path / "out.jsonl", CaptionPlan("unused"))
    written = rows(tmp_path / "out.jsonl")
    assert list(written) == wanted
    for image, question in wanted:
        assert written[image, question]["text"] == opened.ask(folder / image, question).text


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png"])
def test_a_name_that_no_file_can_bear_costs_its_own_row_alone(
    opened: visualglm.VisualGLM, folder: Path, tmp_path: Path, name: str
) -> None:
    listed = folder / "list.jsonl"
    listed.write_text("\n".join(json.dumps({"image": image}) for image in (name, SAMPLES[0].name)))
    assert caption(opened, listed, tmp_path / "out.jsonl", CaptionPlan(QUESTION), max_new_tokens=4) == 2
    assert ["error" in row for row in rows(tmp_path / "out.jsonl").values()] == [True, False]
    assert caption(opened, listed, tmp_path / "out.jsonl", CaptionPlan(QUESTION), max_new_tokens=4) == 0


def test_sidecars_and_where_they_have_no_place(opened: visualglm.VisualGLM, folder: Path, tmp_path: Path) -> None:
    caption(opened, folder, tmp_path / "out.jsonl", CaptionPlan(QUESTION, sidecar=True))
    for (image, _), row in rows(tmp_path / "out.jsonl").items():
        text = (folder / image).with_suffix(".txt")
        assert text.read_text(encoding="utf-8") == row["text"] + "\n" if "text" in row else not text.exists()
    shutil.copy(SAMPLES[0], folder / f"{SAMPLES[0].stem}.bmp")
    with pytest.raises(UsageError, match="share"):
        check_sidecars(read_source(str(folder)))


def test_too_little_memory_halves_the_batch(
    opened: visualglm.VisualGLM, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from visualglm.captioning import local_engine as module

    class SmallBatch(RunningBatch[TextRow]):
        def step(self) -> list[TextRow]:
            if len(self.rows) > 2:
                self.rows[0].accept(1)
                raise torch.OutOfMemoryError
            return super().step()

    monkeypatch.setattr(module, "start_batch", SmallBatch)
    caption(opened, folder, tmp_path / "out.jsonl", CaptionPlan(QUESTION, batch_size=4))
    for (image, question), row in rows(tmp_path / "out.jsonl").items():
        assert row.get("text") == (None if "error" in row else opened.ask(folder / image, question).text)


def test_the_next_item_takes_the_place_of_an_answer_that_ended(
    opened: visualglm.VisualGLM, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are written in the order of the items, and a long answer does not hold the batch."""
    from visualglm.captioning import local_engine as module

    for number in range(6):
        shutil.copy(SAMPLES[number % len(SAMPLES)], folder / f"more-{number}.png")
    sizes = []

    class CountedBatch(RunningBatch[TextRow]):
        def step(self) -> list[TextRow]:
            sizes.append(len(self.rows))
            return super().step()

    monkeypatch.setattr(module, "start_batch", CountedBatch)
    out = tmp_path / "out.jsonl"
    lengths = itertools.chain((12,), itertools.repeat(3))
    prepare = CaptionRun._prepare

    def of_unequal_length(run: CaptionRun, item: Any, pixels: Any) -> Any:
        item, row = prepare(run, item, pixels)
        if isinstance(row, TextRow):
            row.room = next(lengths)
        return item, row

    monkeypatch.setattr(CaptionRun, "_prepare", of_unequal_length)
    items = [item.image for item in read_source(str(folder))]
    caption(opened, folder, out, CaptionPlan(QUESTION, batch_size=2))
    written = [json.loads(line)["image"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert written == items
    assert sizes[:10] == [2] * 10


def captions(*arguments: str) -> list[str]:
    return ["caption", *arguments, "--question", QUESTION, "--max-new-tokens", "4"]


def process(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "visualglm", *captions(*arguments)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_kill_9_at_random_moments(
    program: Callable[..., subprocess.CompletedProcess[str]], folder: Path, tmp_path: Path
) -> None:
    """Each start is killed once it has written a random number of bytes more, in the middle of a batch or a line."""
    for number in range(20):
        shutil.copy(SAMPLES[number % len(SAMPLES)], folder / f"more-{number}.png")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert program(*captions(str(folder), "-o", str(whole))).returncode == 1
    chance, size = random.Random(7), 0
    for _ in range(3):
        target = size + chance.randrange(1, whole.stat().st_size // 4)
        running = subprocess.Popen(process(str(folder), "-o", str(out), "--batch-size", "3"), env=ENVIRONMENT)
        while not out.exists() or out.stat().st_size < target:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(0.01)
                break
        running.send_signal(signal.SIGKILL)
        running.wait()
        with out.open("ab") as file:
            file.write(whole.read_bytes()[: chance.randrange(50)].rstrip(b"\n"))  # as if torn in the middle of a line
        size = out.stat().st_size
    done = subprocess.run(
        process(str(folder), "-o", str(out)), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, "an error row is left"
    assert "; 1 row with an error in " in done.stderr and "--retry-failed" in done.stderr
    assert rows(out) == rows(whole)


def test_ctrl_c_says_where_the_rows_are_and_a_finished_run_opens_no_model(
    program: Callable[..., subprocess.CompletedProcess[str]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = str(tmp_path / "out.jsonl")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CaptionRun, "__call__", interrupted)
        done = program(*captions(str(folder), "-o", out))
    assert done.returncode not in (0, 2)
    assert f"Stopped; finished rows are in {out}. Run the same command again to continue." in done.stderr
    assert program(*captions(str(folder), "-o", out)).returncode == 1
    monkeypatch.setattr(Flags, "open_model", interrupted)
    assert f"answered 0 of {len(SAMPLES) + 1} images" in program(*captions(str(folder), "-o", out)).stderr


def test_mistakes_cost_one_sentence(
    program: Callable[..., subprocess.CompletedProcess[str]], folder: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out.jsonl")
    for arguments, named in [
        ((str(tmp_path / "nothing"), "-o", out), "nothing"),
        ((str(folder), "-o", str(folder)), "source itself"),
        ((str(folder), "-o", str(tmp_path)), "cannot be written"),
        ((str(folder), "-o", out, "--batch-size", "many"), "--batch-size"),
        ((str(tmp_path / "nothing"), "-o", out), "nothing does not exist. Check the path."),
        ((str(SAMPLES[0]), "-o", out), "is one image. Give its folder, or use `visualglm ask`."),
        ((str(folder), "-o", str(tmp_path / "out.csv")), "Name it out.jsonl."),
        ((str(folder), "other folder", "-o", out), "Put a name, glob or question with spaces or * in quotes."),
        ((str(folder),), "Missing option '--output' / '-o'."),
    ]:
        done = program(*captions(*arguments))
        assert (done.returncode, done.stdout) == (2, "")
        assert named in done.stderr


def test_a_run_goes_on_as_it_was_begun(
    program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Other flags or another source are refused before anything is lost; rows without a note go on."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(SAMPLES[0], tmp_path / name / "a.png")
    out, note = tmp_path / "out.jsonl", tmp_path / ".out.jsonl.run.json"

    def said(source: str, *flags: str) -> subprocess.CompletedProcess[str]:
        return program("caption", str(tmp_path / source), "-o", str(out), "--max-new-tokens", "4", *flags)

    assert said("one").returncode == 0
    before = out.read_bytes()
    for source, flags, named in [
        ("two", (), "source"),
        ("one", ("--seed", "3"), "seed"),
        ("one", ("--language", "zh"), "language"),
        ("one", ("--question", QUESTION), "question"),
        ("one", ("--model", str(tmp_path)), "model"),
    ]:
        done = said(source, *flags)
        assert done.returncode == 2 and f"begun with {named} " in done.stderr
        assert out.read_bytes() == before
    note.unlink()
    done = said("one", "--sidecar", "--device", "cpu")
    assert done.returncode == 0 and "0 of 1 images" in done.stderr and note.exists()
    assert (tmp_path / "one" / "a.txt").read_text(encoding="utf-8") == json.loads(before)["text"] + "\n"
    out.unlink()
    assert said("two", "--seed", "3").returncode == 0, "a note without rows is nobody's"


def test_an_answer_to_another_question_is_not_taken_for_this_ones(
    opened: visualglm.VisualGLM, folder: Path, tmp_path: Path
) -> None:
    caption(opened, folder, tmp_path / "out.jsonl", CaptionPlan(QUESTION))
    with JsonlResults(tmp_path / "out.jsonl") as results, pytest.raises(UsageError, match="another -o"):
        results.check_question(read_source(str(folder)), "这是什么？")
