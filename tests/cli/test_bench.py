"""bench measures what it says, without a time being asserted; threads stay within a container's limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from visualglm.benchmarking.profile import LOOP
from visualglm.benchmarking.random_weights import random_model
from visualglm.benchmarking.throughput import bytes_per_token, measure
from visualglm.checkpoints import quantization_plan
from visualglm.cli import app
from visualglm.hardware.threads import allowed_processors
from visualglm.kernels import cpu_backend
from visualglm.network.configuration import VisualGLMConfig
from visualglm.quantization import QuantizedLinear

SMALL = VisualGLMConfig(
    num_layers=1,
    hidden_size=64,
    inner_hidden_size=128,
    num_attention_heads=2,
    vocab_size=500,
    mask_token_id=400,
    gmask_token_id=401,
    bos_token_id=404,
    eos_token_id=405,
    vision_config={
        "num_layers": 1,
        "hidden_size": 32,
        "inner_hidden_size": 32,
        "num_attention_heads": 2,
        "image_size": 28,
    },
    qformer_config={"num_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "cross_attn_hidden_size": 32},
)


@pytest.mark.parametrize(("bits", "vocabulary", "linears"), [(None, None, 0), (8, None, 4), (4, 8, 5)])
def test_a_random_model_is_whole_and_measured(bits: int | None, vocabulary: int | None, linears: int) -> None:
    model = random_model(SMALL, None if bits is None else quantization_plan(bits, vocabulary=vocabulary))
    assert not [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    assert sum(isinstance(module, QuantizedLinear) for module in model.modules()) == linears
    before = bytes_per_token(model)
    found = measure(model, prompt_tokens=40, tokens=2)
    assert found["prompt_tokens"] == 40 and [row["rows"] for row in found["decode"]] == [1, 8]
    assert found["bytes_per_token"] == before > 0  # arranging changes nothing
    with_peak = bits is not None and cpu_backend.path() == "avx512-vnni"
    assert (0 < found["prompt_of_peak"] < 1) if with_peak else found["prompt_of_peak"] is None
    table = 500 * 64 * 2
    assert bits is not None or before == sum(p.nbytes for p in model.transformer.parameters()) - table + table


def test_bench_reports_json_for_programs() -> None:
    threads = torch.get_num_threads()
    run = CliRunner().invoke(app, ["bench", "--tokens", "1", "--prompt", "20", "--threads", "1", "--json"])
    torch.set_num_threads(threads)
    assert run.exit_code == 0, run.output
    report = json.loads(run.output)
    assert report["machine"]["threads"] == 1 and report["kernel"] and report["load_seconds"] > 0


def test_a_profile_adds_up_to_the_whole() -> None:
    run = CliRunner().invoke(app, ["bench", "--tokens", "2", "--prompt", "20", "--profile", "--json"])
    assert run.exit_code == 0, run.output
    for name, parts in json.loads(run.output)["parts"].items():
        assert parts["linear layers"] > 0 and parts["attention"] > 0 and parts["layer norms"] > 0, name
        assert sum(parts.values()) - parts["whole"] == pytest.approx(parts["whole"])
        assert (LOOP in parts) == (name == "token")


def test_a_profile_is_printed_as_a_table() -> None:
    run = CliRunner().invoke(app, ["bench", "--tokens", "1", "--prompt", "20", "--profile"])
    assert "parts of a prompt" in run.output and "parts of a token" in run.output and "100.0%" in run.output


def test_the_full_size_is_made_on_the_cpu() -> None:
    run = CliRunner().invoke(app, ["bench", "--model", "6b", "--dtype", "float32"])
    assert run.exit_code != 0 and "bfloat16" in str(run.exception)


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_a_containers_limit(tmp_path: Path, files: dict[str, str], allowed: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert allowed_processors(tmp_path) == allowed
