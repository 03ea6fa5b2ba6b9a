"""Write docs/en/cli.md and docs/zh/cli.md from the help of the command line.

python docs/make_cli_page.py
"""

from __future__ import annotations

from pathlib import Path

from typer.main import get_command
from typer.testing import CliRunner

from visualglm.cli import app

PAGES = {
    "en": "# Command line\n\nThe help of every command, as `visualglm COMMAND --help` prints it. This page is made by\n"
    "`python docs/make_cli_page.py`.\n",
    "zh": "# 命令行\n\n各命令的帮助，与 `visualglm 命令 --help` 的输出相同。\n"
    "本页由 `python docs/make_cli_page.py` 生成。\n",
}


def write_page(language: str) -> str:
    """Return the page in `en` or `zh`."""
    verbs = sorted(get_command(app).commands)  # type: ignore[attr-defined]
    return PAGES[language] + "".join(f"\n## {verb}\n\n```text\n{help_of(verb)}\n```\n" for verb in verbs)


def help_of(verb: str) -> str:
    """Return what `visualglm VERB --help` prints on a terminal of 100 columns, in any environment."""
    names = {"COLUMNS": "100", "NO_COLOR": "1", "VISUALGLM_MODEL": None, "RAY_ADDRESS": None, "TERM": "dumb"}
    shown = CliRunner().invoke(app, [verb, "--help"], prog_name="visualglm", env=names).output
    return "\n".join(line.rstrip() for line in shown.strip().splitlines())


if __name__ == "__main__":
    for language in PAGES:
        Path(__file__).with_name(language).joinpath("cli.md").write_text(write_page(language), encoding="utf-8")
