"""Help pages that list the options of a verb in groups.

The function that declares an option states its group: `model_option(...)` instead of `typer.Option(...)`. The page is
plain text, so that it can be piped and searched.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand

GROUPS = ("Arguments", "Data", "Output", "Server", "Model", "Sampling", "Performance", "Options")
"""Sections of a help page, in order."""
OLD_NAMES = {"--bits": "--quantize", "--out": "--output"}
"""Old name of an option, still read and not shown -> its name."""

data_option = partial(typer.Option, rich_help_panel="Data")
output_option = partial(typer.Option, rich_help_panel="Output")
model_option = partial(typer.Option, rich_help_panel="Model")
sampling_option = partial(typer.Option, rich_help_panel="Sampling")
performance_option = partial(typer.Option, rich_help_panel="Performance")
server_option = partial(typer.Option, rich_help_panel="Server")


EXTRA_ARGUMENTS = "Got unexpected extra argument"
"""Beginning of the parser's message; most often a shell split a text at its spaces, or expanded a glob."""
QUOTES = "Put a name, glob or question with spaces or * in quotes."


class GroupedCommand(TyperCommand):
    """A verb whose help page has one section per group, and whose parser's messages say what to do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; the messages of the parser's errors are completed."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _complete_message(error)
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections that have entries."""
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for parameter in self.get_params(ctx):
            name, text = parameter.get_help_record(ctx) or ("", "")
            for old in OLD_NAMES:
                name = name.replace(f", {old} ", " ")
            if parameter.param_type_name == "argument":
                groups["Arguments"].append((parameter.metavar or name, text))
            else:
                groups[getattr(parameter, "rich_help_panel", None) or "Options"].append((name, text))
        for group, entries in groups.items():
            if entries:
                with formatter.section(group):
                    formatter.write_dl(entries)


def _complete_message(error: Any) -> None:
    """Change click's exception in place; typer has a copy of click, so its class depends on the version."""
    message = str(getattr(error, "message", ""))
    if message.startswith(EXTRA_ARGUMENTS):
        error.message = f"{message.removesuffix('.')}. {QUOTES}"
    if message.startswith("Value error, "):  # pydantic's words
        error.message = message.removeprefix("Value error, ")
    names = getattr(getattr(error, "param", None), "opts", ())
    if getattr(error, "param_hint", None) is None and any(name in OLD_NAMES for name in names):
        error.param_hint = [name for name in names if name not in OLD_NAMES]
