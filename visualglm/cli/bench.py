"""`visualglm bench`: speed and memory of a model on this machine.

`--model 6b` measures the full size without a checkpoint, with random weights that are made in their quantized form.
`benchmarking/` does the work.
"""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..hardware.threads import set_threads
from . import options
from .grouped_help import data_option, model_option

if TYPE_CHECKING:
    from ..model import VisualGLMForConditionalGeneration


def bench(
    model: Annotated[
        str | None,
        model_option(
            envvar=options.MODEL_VARIABLE,
            metavar="MODEL",
            help="Checkpoint folder, hub id, or 6b: the full size with random weights.",
        ),
    ] = None,
    quantize: options.Quantize = None,
    quantize_vision: options.QuantizeVision = None,
    quantize_vocabulary: options.QuantizeVocabulary = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    threads: options.Threads = None,
    prompt: Annotated[int, data_option(min=1, metavar="N", help="Tokens of the prompt, image included.")] = 64,
    tokens: Annotated[int, data_option(min=1, metavar="N", help="Tokens of the answer.")] = 16,
    profile: Annotated[
        bool, data_option("--profile", help="Also measure where the time of the prompt and of a token goes (CPU only).")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Measure speed and memory on this machine. / 测量模型在本机的速度和内存占用。

    Example: visualglm bench --model 6b --quantize 4
    """
    options.check_device(device)
    options.check_model(None if model == options.SIX_B else model)
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
        opened, seconds = timed(_make_random_model if model == options.SIX_B else _load_model, flags)
    report = {
        "model": model or "packed",
        "bits": options.parse_bits(quantize),
        "dtype": str(opened.dtype).removeprefix("torch."),
        "device": str(opened.device),
        "kernel": cpu_backend.path(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "load_seconds": round(seconds, 2),
        "peak_anonymous_gb": round(peak[0] / 1e9, 3),
        **measure(opened, prompt, tokens),
    }
    if profile:
        from ..benchmarking.profile import measure_parts

        if opened.device.type != "cpu":
            raise UsageError("--profile measures on a CPU only. Add --device cpu.")
        report["parts"] = measure_parts(opened, prompt, tokens)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        _print(report)


def _load_model(flags: options.Flags) -> VisualGLMForConditionalGeneration:
    return flags.open_model().model


def _make_random_model(flags: options.Flags) -> VisualGLMForConditionalGeneration:
    from ..benchmarking.random_weights import random_model
    from ..checkpoints import plan_from_flags
    from ..network.configuration import VisualGLMConfig

    if flags.device not in ("auto", "cpu") or flags.dtype not in ("auto", "bfloat16"):
        raise UsageError("--model 6b runs on the CPU in bfloat16 only. Remove --device and --dtype.")
    given = (flags.quantize, flags.quantize_vision, flags.quantize_vocabulary)
    bits, vision, vocabulary = map(options.parse_bits, given)
    plan = plan_from_flags(bits, vision=vision, vocabulary=vocabulary)
    return random_model(VisualGLMConfig(tie_word_embeddings=True), plan)


def _print(report: dict[str, Any]) -> None:
    from ..hardware.memory import in_words

    machine = report["machine"]
    bits = f"{report['bits']}-bit, " if report["bits"] else ""
    typer.echo(
        f"{report['model']}, {bits}{report['dtype']}, {machine['cpu']}, {machine['threads']} threads, ", nl=False
    )
    typer.echo(f"kernel {report['kernel']}, load average {machine['load_average_1_min']}")
    peak = in_words(report["peak_anonymous_gb"] * 1e9)
    typer.echo(f"load      {report['load_seconds']:8.2f} s   peak {peak}")
    typer.echo(f"image     {report['image_seconds']:8.3f} s")
    limit = f"   {report['prompt_of_peak']:.0%} of the int8 peak" if report["prompt_of_peak"] else ""
    typer.echo(f"prefill   {report['prompt_seconds']:8.3f} s   {report['prompt_tokens_per_second']} tokens/s{limit}")
    for row in report["decode"]:
        limit = f"   {row['of_bandwidth']:.0%} of {row['bandwidth_gb_per_second']} GB/s" if row["of_bandwidth"] else ""
        speed = f"{row['tokens_per_second']} tokens/s{limit}"
        typer.echo(f"decode x{row['rows']} {row['seconds_per_token']:8.4f} s   {speed}")
    for call, parts in report.get("parts", {}).items():
        typer.echo(f"\nparts of a {call}")
        for name, seconds in sorted(parts.items(), key=lambda part: -part[1]):
            typer.echo(f"{name:20}{1e3 * seconds:10.2f} ms{seconds / parts['whole']:7.1%}")
