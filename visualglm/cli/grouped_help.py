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


class GroupedCommand(TyperCommand):
    """A verb whose help page has one section per group."""

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
