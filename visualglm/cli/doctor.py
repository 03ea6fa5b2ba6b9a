"""`visualglm doctor`: check a checkpoint, one line per check; exit code 1 if one failed.

`checkpoints/verify.py` does the work.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import chain
from typing import Annotated

import typer

from ..errors import visible
from . import options
from .grouped_help import model_option

MARKS = {"passed": "ok    ", "failed": "FAILED", "skipped": "-     "}


def doctor(
    model: Annotated[
        str | None,
        model_option(
            "--model",
            envvar=options.MODEL_VARIABLE,
            metavar="MODEL",
            help="Checkpoint folder of any format, or a hub id. Default: the packed model.",
        ),
    ] = None,
    fingerprint: Annotated[
        bool,
        model_option("--fingerprint/--no-fingerprint", help="Compare with what `convert` stored."),
    ] = True,
    adapter: Annotated[
        str | None,
        model_option("--adapter", metavar="DIR", help="Adapter to check with the model: its folder, or DIR@STEP."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check a checkpoint and an adapter, values and outputs. / 检查权重文件与适配器。

    Example: visualglm doctor --model visualglm-6b
    """
    options.check_model(model)
    from ..adapters.verify import verify_adapter
    from ..checkpoints import local_folder, verify
    from ..hub.local_folder import packed_model

    folder = local_folder(model or packed_model())
    if not as_json:
        typer.echo(f"       kernel: {kernel_line()}")
    checks = []
    adapters = () if adapter is None else (verify_adapter(adapter, folder),)
    for check in chain(verify(folder, with_fingerprint=fingerprint), adapters):
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
    """Describe what multiplies by 8-bit and 4-bit weights on this processor."""
    from ..kernels import cpu_backend

    if not cpu_backend.available():
        return "not built (needs a C compiler at install time); 8-bit and 4-bit weights use torch's slower kernels"
    return f"{cpu_backend.path()}, compiled with the package, for 8-bit and 4-bit weights and decoding on the CPU"
