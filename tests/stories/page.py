"""Write docs/en/stories.md and docs/zh/stories.md from the docstrings of the tests in this folder.

    python -m tests.stories.page

A docstring has a title in English and in Chinese, the issues, what happened (`Before:`, `以前：`), what happens now
(`Now:`, `现在：`), and the commands that show it, indented. A paragraph may take several lines.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ISSUES = "https://github.com/zai-org/{}/issues/{}"
OWNERS = {"XrayGLM": "WangRongsheng/XrayGLM", "LAVIS": "salesforce/LAVIS", "SAT": "THUDM/SwissArmyTransformer"}
CHAPTERS = ("test_weights.py", "test_training.py", "test_answering.py", "test_installing.py")
HEADS = {
    "en": """# 25 stories

The problems that users of [the original VisualGLM-6B repository](https://github.com/zai-org/VisualGLM-6B) (upstream)
reported most, and how this package behaves. Each story is a test in `tests/stories`; the commands below are those
that the test runs, on a small random model in a folder `visualglm-6b`. This page is generated from the docstrings
(`python -m tests.stories.page`).
""",
    "zh": """# 25 个故事

官方 [VisualGLM-6B](https://github.com/zai-org/VisualGLM-6B) 仓库（下称“上游”）的 issue 中
用户反馈最多的 25 个问题，以及本项目的做法。每个故事都是 `tests/stories` 中的一个测试；
下面的命令就是测试所运行的命令，使用的是 `visualglm-6b` 文件夹中的小型随机模型。
本页由测试的文档字符串生成（`python -m tests.stories.page`）。
""",
}
WORDS = {
    "en": {"issues": ". Issues: ", "before": "**Before.** ", "now": "**Now.** ", "test": "Test: "},
    "zh": {"issues": "。相关 issue：", "before": "**以前：**", "now": "**现在：**", "test": "测试："},
}


@dataclass(frozen=True)
class Story:
    """A docstring, taken apart: `text` has title, before and now by language."""

    name: str
    issues: tuple[str, ...]
    text: dict[str, tuple[str, str, str]]
    commands: tuple[str, ...]


def read_story(name: str, docstring: str | None) -> Story:
    """Take a docstring apart.

    Raises:
        ValueError: a part is missing.
    """
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    shown = [line for text in paragraphs if text.startswith("    ") for line in text.splitlines()]
    commands = [" ".join(line.split()) for line in shown]
    texts = [_join(text) for text in paragraphs if not text.startswith("    ")]
    marks = ("", "", "Issues: ", "Before: ", "以前：", "Now: ", "现在：")
    if len(texts) != len(marks) or not all(text.startswith(mark) for text, mark in zip(texts, marks, strict=True)):
        raise ValueError(f"{name}: the docstring needs two titles, then {marks[2:]}")
    title, title_zh, issues, before, before_zh, now, now_zh = (
        text.removeprefix(mark) for text, mark in zip(texts, marks, strict=True)
    )
    return Story(
        name,
        tuple(issues.rstrip(".").split(", ")),
        {"en": (title, before, now), "zh": (title_zh, before_zh, now_zh)},
        tuple(commands),
    )


def _join(paragraph: str) -> str:
    """Make one line of several; no blank where the lines meet in Chinese."""
    joined = re.sub(r"(?<=[^\x00-\x7f])\n|\n(?=[^\x00-\x7f])", "", paragraph)
    return joined.replace("\n", " ")


def chapters() -> dict[str, tuple[dict[str, str], list[Story]]]:
    """Return the files, each with its heading by language (its docstring) and its stories."""
    found = {}
    for name in CHAPTERS:
        tree = ast.parse((Path(__file__).parent / name).read_text(encoding="utf-8"))
        english, chinese = (ast.get_docstring(tree) or "").split("\n")[0].rstrip(".").split(" / ")
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        stories = [read_story(node.name, ast.get_docstring(node)) for node in functions]
        found[name] = ({"en": english, "zh": chinese}, stories)
    return found


def write_page(language: str) -> str:
    """Return the page in `en` or `zh`."""
    words, parts, number = WORDS[language], [HEADS[language]], 0
    for file, (heading, stories) in chapters().items():
        parts.append(f"## {heading[language]}\n")
        for story in stories:
            number += 1
            title, before, now = story.text[language]
            links = ", ".join(_link(issue) for issue in story.issues)
            lines = [f"### {number}. {title.rstrip('.。')}", f"{words['before']}{before}", f"{words['now']}{now}"]
            if story.commands:
                lines.append("```console\n" + "\n".join(f"$ {command}" for command in story.commands) + "\n```")
            lines.append(f"{words['test']}`{file}::{story.name}`{words['issues']}{links}")
            parts.append("\n\n".join(_fill(line) for line in lines) + "\n")
    return "\n".join(parts)


def _fill(text: str) -> str:
    """Break long lines of English; commands and Chinese paragraphs stay as they are."""
    if text.startswith("```") or re.search("[，。]", text):
        return text
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _link(issue: str) -> str:
    repository, number = issue.split("#")
    home = ISSUES.format("VisualGLM-6B", number)
    if repository in OWNERS:
        home = f"https://github.com/{OWNERS[repository]}/issues/{number}"
    return f"[{issue}]({home})"


if __name__ == "__main__":
    for language in HEADS:
        (ROOT / "docs" / language / "stories.md").write_text(write_page(language), encoding="utf-8")
