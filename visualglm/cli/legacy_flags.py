"""Upstream's old flags -> ours, for the verbs that upstream had scripts for.

In: the arguments of `visualglm chat` or `visualglm web` as somebody typed them for `cli_demo.py` or `web_demo.py`. Out:
the same in our spelling, and a hint on stderr that shows it. What this version has nothing for is one sentence. Knows
only names of flags; a flag counts as ours when the verb has it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Container, Iterator
from typing import Any

from typer.core import TyperCommand

from ..errors import UsageError

VERBS = ("chat", "web")
"""The verbs that take the place of upstream's scripts."""
RENAMED = {
    "--from_pretrained": "--model",
    "--quant": "--quantize",
    "--max_length": "--max-length",
    "--top_p": "--top-p",
    "--top_k": "--top-k",
    "--repetition_penalty": "--repetition-penalty",
}
FIRST_QUESTIONS = {"--prompt_zh": False, "--prompt_en": True}
"""Flags of the first question, and whether each is the one that `--english` asks."""
INSTEAD = {
    "--share": "pages are not sent through a stranger's server; let the page listen on an address of your own",
}


class AcceptsUpstreamFlags(TyperCommand):
    """A verb whose old flags are translated before its own are read."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """click's, after the translation.

        Raises:
            UsageError: an old flag that this verb has nothing for.
        """
        if self.name in VERBS:
            args = self._translated(ctx, args)
        return super().parse_args(ctx, args)

    def _translated(self, ctx: Any, args: list[str]) -> list[str]:
        ours = {flag for parameter in self.get_params(ctx) for flag in parameter.opts}
        translated = translate(args, ours)
        if translated != args:
            line = shlex.join(["visualglm", str(self.name), *translated])
            print(f"visualglm: these are upstream's flags; here it is written: {line}", file=sys.stderr)
        return translated


def translate(args: list[str], ours: Container[str]) -> list[str]:
    """Arguments with upstream's flags in our spelling; `ours` are the flags that the verb has.

    `--prompt_zh` or `--prompt_en` becomes `--question`, as `--english` chooses; the other one goes.

    Raises:
        UsageError: a flag of upstream's that the verb has nothing for.
    """
    english = "--english" in args
    translated: list[str] = []
    for flag, value in _pairs(args):
        if flag in FIRST_QUESTIONS:
            flag, wanted = "--question", FIRST_QUESTIONS[flag] == english
            translated += [flag, *value] if wanted else []
        elif flag == "--english":
            translated += ["--language", "en"]
        else:
            new = RENAMED.get(flag, flag)
            if new not in ours and flag in INSTEAD:
                raise UsageError(f"{flag}: {INSTEAD[flag]}.")
            translated += [new, *value]
    return translated


def _pairs(args: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each argument alone, but `--prompt_zh TEXT`, and any old `--flag=value` as two."""
    old = {*RENAMED, *FIRST_QUESTIONS, *INSTEAD}
    rest = list(args)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag not in old:
            yield flag + equals + value, []
        elif equals:
            yield flag, [value]
        else:
            yield flag, [rest.pop(0)] if flag in FIRST_QUESTIONS and rest else []
