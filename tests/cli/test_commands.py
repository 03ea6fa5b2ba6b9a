"""The command line as a user meets it: the packed model, pipes, JSON; a mistake costs one line and exit code 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

import visualglm
from visualglm.cli.options import Flags, announce_opening
from visualglm.preprocessing.prompt import Turn, describe_dropped_turns, language_of

from ..conftest import REFERENCE

SAMPLE = next(iter(sorted((visualglm.packed_model() / "samples").glob("*.png"))))
IMAGE = str(REFERENCE / "images" / "rgb.png")


def run(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    import os

    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    program = [sys.executable, "-m", "visualglm", *arguments]
    return subprocess.run(program, input=stdin, capture_output=True, timeout=600, env=env, check=False)


def test_ask_answers_about_the_packed_sample() -> None:
    done = run("ask", str(SAMPLE), "这张图片里有什么？")
    assert done.returncode == 0, done.stderr.decode()
    assert language_of(done.stdout.decode()) == "zh"
    assert done.stderr.decode().count("\n") == 1 and "visualglm-mini" in done.stderr.decode()


def test_ask_reads_stdin_and_writes_json(program: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run("ask", "-", "What is this?", "--json", stdin=SAMPLE.read_bytes())
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout)
    assert answer["question"] == "What is this?"
    assert answer["text"].isascii()
    assert answer["finish_reason"] == "stop" and answer["model"] == "visualglm-mini"
    assert program("ask", str(SAMPLE), "What is this?").stdout == answer["text"] + "\n"


def test_every_surface_names_the_packed_model_and_no_other(
    program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, stem_folder: Path
) -> None:
    (tmp_path / "images").mkdir()
    shutil.copy(SAMPLE, tmp_path / "images")
    names = {None: "visualglm-mini", str(visualglm.packed_model()): "visualglm-mini", str(stem_folder): "stem"}
    for number, (model, name) in enumerate(names.items()):
        flags = ["--language", "zh", "--max-new-tokens", "2", *(["--model", model] if model else [])]
        out = str(tmp_path / f"{number}.jsonl")
        asked = program("ask", str(SAMPLE), *flags)
        for done in (asked, program("caption", str(tmp_path / "images"), "-o", out, *flags)):
            assert done.returncode == 0, done.stderr
            assert ("请用 --model 打开 VisualGLM-6B" in done.stderr) == (name != "stem")
        assert json.loads(Path(out).read_text(encoding="utf-8"))["model"] == name


def test_without_a_question_the_image_is_described_in_the_users_language(
    program: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert not program("ask", str(SAMPLE)).stdout.isascii()
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    assert program("ask", str(SAMPLE)).stdout.isascii()


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["ask", "missing.jpg", "x"], "missing.jpg"),
        (["ask", __file__, "x"], "test_commands.py"),
        (["ask", IMAGE, "x", "--model", "/nowhere/model"], "/nowhere/model"),
        (["ask", IMAGE, "x", "--model", str(REFERENCE / "sat")], "ice_text.model"),
        (["ask", IMAGE, "猫" * 3000], "fit"),
        (["ask", IMAGE, "x", "--device", "quantum"], "quantum"),
        (["ask", "https://example.org/a.png", "x"], "https://example.org/a.png"),
        (["ask", IMAGE, "x", "--temperature", "-1"], "--temperature"),
        (["ask", IMAGE, "x", "--temperature", "inf"], "--temperature"),
        (["ask", IMAGE, "x", "--greedy", "--temperature", "0.5"], "--greedy"),
        (["ask", IMAGE, "x", "--seed", "9" * 30], "--seed"),
        (["ask", "-", "x"], "stdin"),
        (["ask", "", "x"], "named"),
        (["convert", IMAGE, "out"], "rgb.png"),
        (["doctor", "--model", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    program: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], names: str
) -> None:
    done = program(*arguments)
    assert done.returncode == 2, done.stderr
    assert names in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["ask", IMAGE, "what", "is", "this"], "(is this). Put a name, glob or question with spaces or * in quotes."),
        (["quantize", "a", "b"], "Missing option '--quantize'."),
        (["quantize", "a", "b", "--quantize", "3"], "Invalid value for '--quantize': "),
    ],
)
def test_the_parsers_errors_say_what_to_do_and_hide_old_names(
    program: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], said: str
) -> None:
    done = program(*arguments)
    assert done.returncode == 2 and said in done.stderr
    assert "--bits" not in done.stderr and "Value error" not in done.stderr


def test_a_terminal_is_told_what_is_opened(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for terminal, language, said in (
        (False, "en", ""),
        (True, "en", "opening visualglm-mini ...\n"),
        (True, "zh", "正在打开 6b ……\n"),
    ):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        announce_opening(None if language == "en" else "6b", language)
        assert capsys.readouterr().err == said


EARLY_MISTAKES = [
    ["ask", "missing.jpg"],
    ["ask", "https://example.org/a.png"],
    ["ask", IMAGE, "x", "--model", "/nowhere/model"],
    ["ask", IMAGE, "x", "--device", "quantum"],
    ["ask", IMAGE, "x", "--adapter", "/nowhere"],
    ["ask", IMAGE, "x", "--tokenizer", "/nowhere"],
    ["ask", IMAGE, "x", "--nonsense"],
    ["ask", IMAGE, "x", "--top-p", "2"],
    ["chat", "missing.jpg"],
    ["caption", "/nowhere", "-o", "out.jsonl"],
    ["convert", "/nowhere", "out"],
    ["quantize", "/nowhere", "out", "--quantize", "4"],
    ["merge", "/nowhere", "adapter", "out"],
    ["doctor", "--model", "/nowhere"],
    ["fit", "--model", "/nowhere"],
    ["bench", "--model", "/nowhere"],
    ["serve", "--model", "/nowhere"],
    ["web", "--model", "/nowhere"],
    ["finetune", "--data", "missing.json", "--output", "out"],
    ["finetune", "--data", "data.json", "--output", "out", "--model", "/nowhere"],
    ["download", "nonsense"],
]
WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
from visualglm.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["visualglm", *arguments]
    try:
        main()
    except SystemExit as ended:
        print(ended.code, *arguments)
"""


def test_mistakes_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    """Importing torch takes seconds. Here it raises, and so does transformers."""
    (tmp_path / "data.json").write_text("[]")
    code = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(EARLY_MISTAKES)]
    done = subprocess.run(code, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines() == [f"2 {' '.join(arguments)}" for arguments in EARLY_MISTAKES], done.stderr


def test_a_mistake_in_a_process_of_its_own() -> None:
    done = run("ask", "-", "x")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith("visualglm: stdin is empty")


def test_a_terminal_that_is_not_utf_8() -> None:
    done = run("ask", IMAGE, "a\udcffb", "--model", str(REFERENCE / "hf"), "--greedy", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr.decode()
    assert run("--version").stdout.decode().strip() == visualglm.__version__


VERBS = ["ask", "bench", "caption", "chat", "convert", "doctor", "download", "finetune", "fit", "merge", "pretrain"]
VERBS += ["quantize", "serve", "web"]


def test_the_help_lists_every_verb() -> None:
    top = run("--help").stdout.decode()
    assert all(f"\n  {verb} " in top for verb in VERBS) and "..." not in top.split("Commands:")[1]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_is_bilingual_with_an_example(
    program: Callable[..., subprocess.CompletedProcess[str]], verb: str
) -> None:
    done = program(verb, "--help")
    assert done.returncode == 0
    summary = done.stdout.split("\n")[2]
    assert " / " in summary and not summary.isascii()
    assert f"Example: visualglm {verb} " in done.stdout
    assert "<" not in done.stdout.replace("<=", ""), "metavars are plain words"


def test_the_options_are_grouped(program: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    groups = [line for line in program("serve", "--help").stdout.split("\n") if line.endswith(":") and line[0] != " "]
    assert groups == ["Data:", "Server:", "Model:", "Sampling:", "Performance:", "Options:"]


def test_chat_in_the_terminal(tmp_path: Path) -> None:
    saved = tmp_path / "dialogue.json"
    lines = ["这张图片里有什么？", "/image missing.png", f"/image {SAMPLE}", "What is this?", f"/save {saved}"]
    lines += ["/image", "/help", "/imgae x", "clear", "/quit", "never read"]
    done = run("chat", str(SAMPLE), stdin="\n".join(lines).encode(), LC_ALL="zh_CN.UTF-8")
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert "欢迎" in said
    assert "missing.png" in said
    assert "/save FILE    save the chat as JSON" in said and "There is no command /imgae" in said
    assert "Chat and images cleared" in said, "what the program says follows the last question's language"
    assert "never read" not in said
    turns = json.loads(saved.read_text(encoding="utf-8"))
    assert [turn["question"] for turn in turns] == ["这张图片里有什么？", "What is this?"]
    assert all(turn["answer"] for turn in turns)


def test_ctrl_c_stops_the_answer_not_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from visualglm.cli.chat import Dialogue

    conversation = visualglm.load(REFERENCE / "hf", device="cpu").conversation(IMAGE)
    console = Console(force_terminal=False, record=True)
    dialogue = Dialogue(conversation, console, {"do_sample": False, "max_new_tokens": 500, "eos_token_id": 766})
    real = console.print
    calls = iter(range(1000))

    def interrupt(*values: object, **how: object) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        real(*values, **how)

    monkeypatch.setattr(console, "print", interrupt)
    dialogue.process("描述这张图片。")
    assert conversation.answer is not None
    assert conversation.answer.finish_reason == "cancelled"
    assert "已停止" in console.export_text()


@pytest.mark.parametrize(("question", "language"), [("描述这张图片。", "zh"), ("What is this?", "en")])
def test_chat_says_how_many_turns_were_dropped(question: str, language: Literal["zh", "en"]) -> None:
    from rich.console import Console

    from visualglm.cli.chat import Dialogue

    conversation = visualglm.load(REFERENCE / "hf", device="cpu").conversation(IMAGE)
    conversation.turns = [Turn("a" * 40, "b" * 40), Turn("c", "d")]
    console = Console(force_terminal=False, record=True, width=200)
    Dialogue(conversation, console, {"do_sample": False, "max_length": 80, "max_new_tokens": 4}).process(question)
    assert console.export_text().endswith(describe_dropped_turns(1, language) + "\n")


def test_paths_become_absolute_and_keep_their_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run", "me@home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    places = {"run@40": f"{tmp_path}/run@40", "me@home": f"{tmp_path}/me@home", "me@home@3": f"{tmp_path}/me@home@3"}
    assert {place: Flags(adapter=place).with_absolute_paths().adapter for place in places} == places
    assert Flags(model="me@home", adapter="none@4").with_absolute_paths() == Flags(
        model=f"{tmp_path}/me@home", adapter="none@4"
    )
