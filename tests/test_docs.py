"""README and docs are executed: snippets and commands run on the packed model; both languages say the same."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import visualglm

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "en").glob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ENGLISH = [ROOT / "README.md", *PAGES]
CHINESE = [ROOT / "README_zh.md", *sorted((ROOT / "docs" / "zh").glob("*.md"))]
TEXTS = [*ENGLISH, *CHINESE]
COMMAND = re.compile(r"^(visualglm|python|pip|make|ray|vllm|git|torchrun|sh|node|\.venv\S*) ", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def pages(language: str, texts: list[Path]) -> pytest.MarkDecorator:
    """One test for each page with such blocks."""
    found = [page for page in texts if blocks(page, language)]
    return pytest.mark.parametrize("page", found, ids=lambda page: str(page.relative_to(ROOT)))


@pages("python", ENGLISH)
def test_snippets_run(page: Path, tmp_path: Path) -> None:
    """All of a page's Python, in order, as one program."""
    code = "\n".join(blocks(page, "python"))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pages("python", CHINESE)
def test_snippets_with_chinese_words_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They differ from the English ones in their strings alone (below), so the process may be this one."""
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks(page, "python")), {"__name__": "__main__"})


@pages("sh", ENGLISH)  # the Chinese pages have the same commands, see below
def test_commands_run(page: Path, tmp_path: Path) -> None:
    """Every `visualglm ...` line of a page, in order, in a folder with the packed model and the recipes."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if "visualglm " in line]
    (tmp_path / "visualglm").mkdir()
    shutil.copytree(visualglm.packed_model(), tmp_path / "visualglm" / "mini")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONSAFEPATH": "1"}
    for line in lines:
        done = subprocess.run(
            line, shell=True, capture_output=True, text=True, timeout=180, env=environment, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", [*TEXTS], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_no_test_runs_say_why(page: Path) -> None:
    """Commands are in `sh` blocks, which run; those in a `text` block have a comment above it."""
    text = page.read_text(encoding="utf-8")
    for above, body in re.findall(r"^(.*)\n```text\n((?:.*\n)*?)```", text, re.MULTILINE):
        if COMMAND.search(body) and page.name != "cli.md":
            assert above.startswith("<!-- not run: "), body


def test_both_languages_have_the_same_pages_and_headings() -> None:
    assert [page.name for page in PAGES] == sorted(page.name for page in (ROOT / "docs" / "zh").glob("*.md"))
    for english in [*PAGES, ROOT / "README.md"]:
        chinese = ROOT / "README_zh.md" if english.name == "README.md" else ROOT / "docs" / "zh" / english.name
        assert headings(english) == headings(chinese), english.name
        for language in ("sh", "text"):
            assert blocks(english, language) == blocks(chinese, language), english.name
        assert statements(english) == statements(chinese), english.name


def statements(page: Path) -> list[str]:
    """Return a page's Python without its comments and the words in its strings."""
    trees = [ast.parse(block) for block in blocks(page, "python")]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return [ast.unparse(tree) for tree in trees]


def headings(page: Path) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", page.read_text(encoding="utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_quoted_figures_are_those_of_the_files() -> None:
    done = subprocess.run([sys.executable, "benchmarks/quote.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_figure_that_rots_in_a_sentence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    quote = importlib.import_module("quote")
    page = (ROOT / "docs" / "en" / "captioning.md").read_text("utf-8")
    rate = str(round(quote.stored("captioning")["images_per_second_at_batch_8"], 2))
    assert rate in page and not list(quote.unknown_numbers(page))
    assert list(quote.unknown_numbers(page.replace(rate, "99.87"))) == ["99.87 (captioning.json)"]


def test_the_quoted_demo_is_what_the_model_says() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text(encoding="utf-8"))
    model = visualglm.load(device="cpu")
    for dialogue in record["dialogues"]:
        conversation = model.conversation(ROOT / dialogue["image"])
        for turn in dialogue["turns"]:
            assert conversation.ask(turn["question"]).text == turn["answer"]
