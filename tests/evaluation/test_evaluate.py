"""Whole runs on the packed model: the same figures after a kill and in parts; honest counts; comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from visualglm import VisualGLM, packed_model
from visualglm.errors import UsageError
from visualglm.evaluation.evaluate import Evaluation, Outcome, evaluate
from visualglm.evaluation.explained_rows import explain_worst
from visualglm.evaluation.queries import Reply, ScoredRow
from visualglm.evaluation.query_runner import AnswerPlan
from visualglm.evaluation.readers.source import DataSource
from visualglm.evaluation.reply_store import Part, ReplyStore, part_of_environment
from visualglm.evaluation.report_texts import TEXTS

PLAN = AnswerPlan(sampling={"do_sample": False}, batch_size=8)
SAMPLES = sorted((packed_model() / "samples").glob("*.png"))
Program = Callable[..., CompletedProcess[str]]


def run(model: VisualGLM, folder: Path, task: str = "pope", part: Part | None = None, **fields: Any) -> Outcome:
    return evaluate(Evaluation(task, limit=3, model={"name": "mini"}, **fields), lambda: model, PLAN, folder, part)


def figures(outcome: Outcome) -> dict[str, Any]:
    assert outcome.results is not None
    return {name: outcome.results[name] for name in ("rows", "unanswered", "metrics", "facets", "baselines")}


@pytest.mark.parametrize("task", ["caption", "vqa", "choice", "scenes"])
def test_every_task_runs_offline_and_reports(opened: VisualGLM, tmp_path: Path, task: str) -> None:
    outcome = evaluate(Evaluation(task, limit=1, model={"name": "mini"}, language="zh"), lambda: opened, PLAN, tmp_path)
    assert outcome.results is not None and outcome.results["unanswered"] == 0
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == outcome.results
    report = (tmp_path / "report.html").read_text("utf-8")
    assert "绘制的图片只能衡量" in report and "<script" not in report


def test_a_killed_run_goes_on_and_repeats_nothing(
    opened: VisualGLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = figures(run(opened, tmp_path / "whole"))
    add = ReplyStore.add

    def killed(store: ReplyStore, reply: Reply) -> None:
        if len(store.replies) == 4:
            raise KeyboardInterrupt
        add(store, reply)

    monkeypatch.setattr(ReplyStore, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        run(opened, tmp_path / "killed")
    replies = tmp_path / "killed" / "replies.jsonl"
    replies.write_bytes(replies.read_bytes()[:-9])  # a power loss tears the last line
    added: list[str] = []
    monkeypatch.setattr(ReplyStore, "add", lambda store, reply: (added.append(reply.id), add(store, reply))[1])
    assert figures(run(opened, tmp_path / "killed")) == whole
    assert len(added) == whole["rows"] - 3
    run(opened, tmp_path / "killed")
    assert len(added) == whole["rows"] - 3


def test_parts_together_are_the_whole(opened: VisualGLM, tmp_path: Path) -> None:
    whole = figures(run(opened, tmp_path / "whole"))
    assert run(opened, tmp_path / "parts", part=Part(0, 2)).results is None
    assert figures(run(opened, tmp_path / "parts", part=Part(1, 2))) == whole
    assert {path.name for path in (tmp_path / "parts").glob("replies*")} == {
        "replies-1of2.jsonl",
        "replies-2of2.jsonl",
    }


def test_a_folder_of_another_run_is_refused(opened: VisualGLM, tmp_path: Path) -> None:
    run(opened, tmp_path)
    with pytest.raises(UsageError, match=r"holds a run with dtype None, and now it is 'float16'"):
        run(opened, tmp_path, settings={"dtype": "float16"})


def rows_file(tmp_path: Path) -> Path:
    (tmp_path / "good.png").write_bytes(SAMPLES[0].read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [
        {"image": name, "question": question, "answer": answer}
        for name in ("good.png", "broken.png", "missing.png")
        for question, answer in (("Is there a circle?", "yes"), ("图中有大象吗？", "no"))
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_row_without_an_answer_is_wrong_and_said(opened: VisualGLM, tmp_path: Path) -> None:
    evaluation = Evaluation("pope", DataSource(rows_file(tmp_path)), model={"name": "mini"})
    results = evaluate(evaluation, lambda: opened, PLAN, tmp_path / "report").results
    assert results is not None
    assert (results["rows"], results["unanswered"]) == (6, 4)
    assert results["metrics"]["accuracy"]["n"] == 6 and results["metrics"]["accuracy"]["value"] <= 2 / 6 + 1e-4
    assert [error.partition(":")[0] for error in results["errors"]] == ["row 3", "row 4", "row 5", "row 6"]
    assert "4 of 6 rows have no answer" in (tmp_path / "report" / "report.html").read_text("utf-8")


def test_the_command_says_what_is_missing_and_fails(program: Program, tmp_path: Path) -> None:
    data = str(rows_file(tmp_path))
    done = program("evaluate", "--task", "pope", "--data", data, "-o", str(tmp_path / "a"))
    assert done.returncode == 1
    assert "4 rows have no answer and count as wrong:" in done.stdout and "row 3: " in done.stdout
    again = program(
        "evaluate", "--task", "pope", "--data", data, "-o", str(tmp_path / "b"), "--quantize", "4", "--json"
    )
    assert json.loads(again.stdout)["model"] == {"name": "visualglm-mini, 4 bits", "quantize": "4", "dtype": "auto"}
    done = program("evaluate", "--compare", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "c"))
    assert done.returncode == 0 and done.stdout.startswith("pope: 6 rows in both\naccuracy")
    assert json.loads((tmp_path / "c" / "comparison.json").read_text("utf-8"))["rows"] == 6
    assert "B − A" in (tmp_path / "c" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_worst_answers_are_explained_where_that_is_asked_for(
    opened: VisualGLM, tmp_path: Path, language: Any
) -> None:
    rows = [
        {"image": str(SAMPLES[0]), "question": question, "answer": "<b>nothing</b>"}
        for question in ("What is in this image?", "图里有什么？", "How many <i>objects</i> are there?")
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    source = DataSource(data)
    outcome = run(opened, tmp_path / "a", "vqa", source=source, language=language, explain=2)
    report = (tmp_path / "a" / "report.html").read_text("utf-8")
    asked = outcome.rows[0].said[0]
    curve = opened.explain(SAMPLES[0], asked[0], answer=asked[1]).deletion
    assert f"{curve.area:+.2f} [{curve.low:+.2f}, {curve.high:+.2f}]" in report
    assert report.count("<section>") == 2 and report.count('alt="map"') == 2 and "<script" not in report
    assert TEXTS[language]["explained"] in report and "<i>objects" not in report
    run(opened, tmp_path / "a", "vqa", source=source, language=language)
    assert "<section>" not in (tmp_path / "a" / "report.html").read_text("utf-8")


def test_an_answer_that_cannot_be_explained_says_why(opened: VisualGLM, tmp_path: Path) -> None:
    image = SAMPLES[0].read_bytes
    row = ScoredRow("a", 0, "a", {"right": (0.0, 1.0)}, 0.0, [("What is this?", "a\x00")], "", image=image)
    rows = [row, replace(row, said=[]), replace(row, errors=["x"]), replace(row, image=None)]
    broken = replace(row, said=[(" ", "star")])
    found = explain_worst(opened, [*rows, broken], 5, "auto", "en")
    assert len(found) == 2 and "This answer cannot be explained: " in found[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--task", "scenes"], "Name a task and a folder"),
        (["--task", "scenes", "-o", "x", "--data", "a.json"], "scenes draws its own images"),
        (["--task", "vqa", "-o", "x", "--data", "missing.json"], "There is no missing.json"),
        (["--task", "vqa", "-o", "x", "--images", "dir"], "belong to a data file"),
        (["--compare", "a", "b"], "a has no results.json"),
        (["--compare", "a", "b", "--task", "vqa"], "Remove --task and --data"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = program("evaluate", *arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_comparing_runs_on_other_data_is_refused(opened: VisualGLM, tmp_path: Path, program: Program) -> None:
    run(opened, tmp_path / "pope")
    run(opened, tmp_path / "vqa", task="vqa")
    done = program("evaluate", "--compare", str(tmp_path / "pope"), str(tmp_path / "vqa"))
    assert done.returncode == 2 and "Compare two runs on the same data" in done.stderr


@pytest.mark.parametrize("rank, size", [("2", "2"), ("x", "2"), ("0", "0")])
def test_a_wrong_environment_is_refused(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError, match="Use torchrun, or unset both"):
        part_of_environment()


def test_quantize_prints_what_the_bits_cost(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visualglm.evaluation.model_comparison.COMPARED_SCENES", 2)
    mini, target = str(packed_model()), str(tmp_path / "int4")
    done = program("quantize", mini, target, "--bits", "4", "--no-fingerprint", "--evaluate", "pope")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [target, "pope: 4 rows in both"]
    assert "(McNemar)" in done.stdout
