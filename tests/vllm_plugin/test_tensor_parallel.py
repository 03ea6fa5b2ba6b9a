"""Two processes with half of the heads each give the answers of one, with an adapter and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..adapters.conftest import made
from .conftest import DIALOGUES, FOLDER, FOUR, NEW_TOKENS, Answer, Oracle

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
pytest.importorskip("peft", reason="visualglm[train] brings it; make test-vllm installs it")
import torch
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def test_two_processes_equal_transformers(expected: dict[str, Answer], tmp_path: Path) -> None:
    adapter = made(tmp_path / "noise", str(FOLDER), "lora", f"lora.targets={FOUR}", size=0.05)
    oracle = Oracle()
    oracle.opened.add_adapter(adapter)
    llm = LLM(
        str(FOLDER),
        dtype="float32",
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        max_model_len=512,
        max_num_seqs=8,
        enable_lora=True,
    )
    fitting = [name for name in DIALOGUES if len(expected[name].prompt) <= 512 - NEW_TOKENS]
    with torch.inference_mode():
        answers = [expected[name].ids for name in fitting]
        answers += [oracle.answer(DIALOGUES[name]).ids for name in fitting]
    requests = [None] * len(fitting) + [LoRARequest("noise", 1, str(adapter))] * len(fitting)
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    messages = [DIALOGUES[name] for name in (*fitting, *fitting)]
    outputs = llm.chat(messages, sampling, use_tqdm=False, lora_request=requests)
    assert [list(output.outputs[0].token_ids) for output in outputs] == answers
    assert answers[: len(fitting)] != answers[len(fitting) :]
