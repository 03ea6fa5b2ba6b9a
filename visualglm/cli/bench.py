"""`visualglm bench --model DIR --quantize 4`: how fast is it here, beside what memory allows?

`--model 6b` measures the full size without a checkpoint, with random weights made in their quantized form. The work is
`speed`'s.
"""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..hardware.threads import set_threads
from . import options

if TYPE_CHECKING:
    from ..model import VisualGLMForConditionalGeneration


def bench(
    model: Annotated[
        str | None, typer.Option(help="A folder of any format, a hub id, or 6b: the full size with random weights.")
    ] = None,
    quantize: options.Quantize = None,
    quantize_vision: options.QuantizeVision = None,
    quantize_vocabulary: options.QuantizeVocabulary = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    threads: options.Threads = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt, picture included.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answer.")] = 16,
    as_json: options.Json = False,
) -> None:
    """Measure speed and memory here. / 测量模型在本机的速度和内存。"""
    set_threads(threads)
    from ..benchmarking.throughput import measure
    from ..hardware.machine_report import machine, peak_memory, timed, versions
    from ..kernels import cpu_backend

    flags = options.Flags(
        model=model,
        quantize=quantize,
        quantize_vision=quantize_vision,
        quantize_vocabulary=quantize_vocabulary,
        device=device,
        dtype=dtype,
        threads=threads,
    )
    with peak_memory() as peak:
        opened, loading = timed(_random if model == options.SIX_B else _loaded, flags)
    report = {
        "model": model or "packed",
        "bits": options.bits(quantize),
        "dtype": str(opened.dtype).removeprefix("torch."),
        "device": str(opened.device),
        "kernel": cpu_backend.path(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "load_seconds": round(loading, 2),
        "peak_anonymous_gb": round(peak[0] / 1e9, 2),
        **measure(opened, prompt, tokens),
    }
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        _print(report)


def _loaded(flags: options.Flags) -> VisualGLMForConditionalGeneration:
    return flags.open_model().model


def _random(flags: options.Flags) -> VisualGLMForConditionalGeneration:
    from ..benchmarking.random_weights import random_model
    from ..checkpoints import plan_from_flags
    from ..network.configuration import VisualGLMConfig

    if flags.device not in ("auto", "cpu") or flags.dtype not in ("auto", "bfloat16"):
        raise UsageError("--model 6b is made on the CPU in bfloat16: leave --device and --dtype out.")
    given = (flags.quantize, flags.quantize_vision, flags.quantize_vocabulary)
    bits, vision, vocabulary = map(options.bits, given)
    plan = plan_from_flags(bits, vision=vision, vocabulary=vocabulary)
    return random_model(VisualGLMConfig(tie_word_embeddings=True), plan)


def _print(report: dict[str, Any]) -> None:
    machine = report["machine"]
    bits = f"{report['bits']} bits, " if report["bits"] else ""
    typer.echo(
        f"{report['model']}, {bits}{report['dtype']}, {machine['cpu']}, {machine['threads']} threads, ", nl=False
    )
    typer.echo(f"kernel {report['kernel']}, load average {machine['load_average_1_min']}")
    typer.echo(f"load     {report['load_seconds']:8.2f} s   peak {report['peak_anonymous_gb']} GB")
    typer.echo(f"picture  {report['picture_seconds']:8.3f} s")
    typer.echo(f"prompt   {report['prompt_seconds']:8.3f} s   {report['prompt_tokens_per_second']} tokens/s")
    for row in report["decode"]:
        limit = f"   {row['of_bandwidth']:.0%} of {row['bandwidth_gb_per_second']} GB/s" if row["of_bandwidth"] else ""
        speed = f"{row['tokens_per_second']} tokens/s{limit}"
        typer.echo(f"answer x{row['rows']}{row['seconds_per_token']:8.4f} s   {speed}")
