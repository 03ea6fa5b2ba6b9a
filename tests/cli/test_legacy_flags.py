"""Old command lines: what they become, the hint, and what this version has nothing for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
import typer.testing

import visualglm
from visualglm.cli import app
from visualglm.cli.legacy_flags import translate
from visualglm.errors import UsageError

OURS = {"--model", "--language", "--question", "--max-length", "--top-p", "--top-k", "--temperature"}
SAMPLE = sorted((visualglm.packed_model() / "samples").glob("*.png"))[0]


@pytest.mark.parametrize(
    "old, new",
    [
        ("--from_pretrained visualglm-6b", "--model visualglm-6b"),
        ("--from_pretrained=a=b", "--model a=b"),
        ("--top_p 0.4 --top_k=100 --temperature .8", "--top-p 0.4 --top-k 100 --temperature .8"),
        ("--max_length 2048", "--max-length 2048"),
        ("--english", "--language en"),
        ("--prompt_zh 描述 --prompt_en Describe", "--question 描述"),
        ("--prompt_zh 描述 --english --prompt_en Describe", "--language en --question Describe"),
        ("picture.png --top-p 0.4", "picture.png --top-p 0.4"),
        ("--prompt_zh", "--question"),
    ],
)
def test_translation(old: str, new: str) -> None:
    assert translate(old.split(), OURS) == new.split()


def test_what_there_is_nothing_for() -> None:
    with pytest.raises(UsageError, match="--share"):
        translate(["--share"], OURS)


def test_a_flag_goes_through_once_the_verb_has_it() -> None:
    assert translate(["--quant", "4"], OURS) == ["--quantize", "4"]
    assert translate(["--share"], {*OURS, "--share"}) == ["--share"]


def test_the_web_page_has_the_same_door() -> None:
    done = typer.testing.CliRunner().invoke(app, ["web", "--share"])
    assert isinstance(done.exception, UsageError) and str(done.exception).startswith("--share is not supported")


def test_an_old_command_line_runs_with_a_hint(program: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    old = ["chat", str(SAMPLE), "--from_pretrained", str(visualglm.packed_model())]
    old += ["--english", "--quant", "8", "--max_length", "100", "--top_k", "100", "--prompt_en"]
    done = program(*old, "What is it?", stdin=b"stop\n")
    assert done.returncode == 0, done.stderr
    assert "--language en --quantize 8 --max-length 100 --top-k 100 --question 'What is it?'" in done.stderr
    assert "> What is it?" in done.stdout
    done = program("chat", "--share")
    assert done.returncode == 2 and done.stderr.startswith("visualglm: --share is not supported")
