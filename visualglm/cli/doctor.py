"""`visualglm doctor --model DIR`: is this checkpoint whole, and does it compute what it should?

One line per check, exit 1 if one failed. The work is `checkpoints.verify`'s.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import visible

MARKS = {"passed": "ok    ", "failed": "FAILED", "skipped": "-     "}


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", help="Folder of any layout, or a hub id; the packed model if not given.")
    ] = None,
    golden: Annotated[
        bool, typer.Option("--golden/--no-golden", help="Compare with what `visualglm convert` stored.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check a checkpoint: files, tensors, numbers, golden record, picture, vocabulary."""
    from ..checkpoints import local_folder, verify

    folder = local_folder(model or _packed_model())
    if not as_json:
        typer.echo(f"       kernel: {kernel_line()}")
    checks = []
    for check in verify(folder, with_golden=golden):
        checks.append(check)
        if not as_json:
            typer.echo(visible(f"{MARKS[check.result]} {check.name}: {check.detail}"))
    failed = [check.name for check in checks if check.result == "failed"]
    if as_json:
        report = {
            "model": str(folder),
            "kernel": kernel_line(),
            "ok": not failed,
            "checks": [asdict(check) for check in checks],
        }
        typer.echo(visible(json.dumps(report, ensure_ascii=False, indent=2), kept="\n"))
    if failed:
        raise typer.Exit(1)


def kernel_line() -> str:
    """What multiplies with 8- and 4-bit weights on this processor, in words."""
    from ..kernels import cpu_backend

    if not cpu_backend.available():
        return "not built (a C compiler at install time makes it): torch's slower ones take 8- and 4-bit weights"
    return f"{cpu_backend.path()}, compiled with the package, for 8- and 4-bit weights and decoding on the CPU"


def _packed_model() -> str:
    import visualglm

    return str(visualglm.packed_model())
