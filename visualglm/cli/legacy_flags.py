"""Translation of upstream's command-line flags.

In: arguments written for upstream's `cli_demo.py` or `web_demo.py`, given to `visualglm chat` or `visualglm web`.
Out: the same arguments with this package's flags, and a hint on stderr that shows them. A flag without a counterpart is
an error.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Container, Iterator
from typing import Any

from ..errors import UsageError
from .grouped_help import GroupedCommand

RENAMED = {
    "--from_pretrained": "--model",
    "--quant": "--quantize",
    "--max_length": "--max-length",
    "--top_p": "--top-p",
    "--top_k": "--top-k",
    "--repetition_penalty": "--repetition-penalty",
}
FIRST_QUESTIONS = {"--prompt_zh": False, "--prompt_en": True}
"""Flag that sets the first question -> True if `--english` selects it."""
UNSUPPORTED = {
    "--share": "the page is never sent through a third party's server. Use --host to listen on another address.",
}
"""Flags without a counterpart -> the rest of the error message."""


class AcceptsUpstreamFlags(GroupedCommand):
    """A verb that also accepts the flags of the upstream script which it replaces."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Translate upstream's flags, then parse.

        Raises:
            UsageError: an upstream flag without a counterpart.
        """
        known = {flag for parameter in self.get_params(ctx) for flag in parameter.opts}
        translated = translate(args, known)
        if translated != args:
            line = shlex.join(["visualglm", str(self.name), *translated])
            print(f"visualglm: upstream's flags were translated. The new form is: {line}", file=sys.stderr)
        return super().parse_args(ctx, translated)


def translate(args: list[str], known: Container[str]) -> list[str]:
    """Replace upstream's flags; `known` are the flags of the verb.

    `--prompt_zh` or `--prompt_en` becomes `--question`, as `--english` selects; the other one is dropped.

    Raises:
        UsageError: an upstream flag without a counterpart.
    """
    english = "--english" in args
    translated: list[str] = []
    for flag, value in _split_flags(args):
        if flag in FIRST_QUESTIONS:
            translated += ["--question", *value] if FIRST_QUESTIONS[flag] == english else []
        elif flag == "--english":
            translated += ["--language", "en"]
        else:
            new = RENAMED.get(flag, flag)
            if new not in known and flag in UNSUPPORTED:
                raise UsageError(f"{flag} is not supported: {UNSUPPORTED[flag]}")
            translated += [new, *value]
    return translated


def _split_flags(args: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (argument, values): `--prompt_zh TEXT` and upstream's `--flag=value` with a value, others alone."""
    upstream = {*RENAMED, *FIRST_QUESTIONS, *UNSUPPORTED}
    rest = list(args)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag not in upstream:
            yield flag + equals + value, []
        elif equals:
            yield flag, [value]
        else:
            yield flag, [rest.pop(0)] if flag in FIRST_QUESTIONS and rest else []
