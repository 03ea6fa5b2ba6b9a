"""The full-size benchmark still runs: here with a model of a few kilobytes."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from visualglm.network.configuration import ChatGLMConfig

from .conftest import ODD_CONFIG

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_full_size_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)  # as where a program lies
    program = importlib.import_module("full_size")
    ids = {"vocab_size": 768, "mask_token_id": 400, "gmask_token_id": 401, "bos_token_id": 404, "eos_token_id": 405}
    figures = program.measure(ChatGLMConfig.from_dict(ODD_CONFIG | ids), tmp_path, tokens=2)
    assert figures["parameters"] > 100_000 and figures["seconds_per_token"] >= 0
    assert figures["peak_anonymous_gb"] > 0 and not list(tmp_path.iterdir())
    full = program.configuration(1)
    assert (full.hidden_size, full.vision.hidden_size, full.qformer.hidden_size) == (4096, 1408, 768)
    assert full.vocab_size == 130528 and full.inner_hidden_size == 16384 and full.num_layers == 28
