"""Two processes with half of the heads each give the answers of one process.

With and without an adapter, also in 4 bits.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from visualglm.checkpoints import convert, quantization_plan
from visualglm.kernels import cpu_backend

from ..adapters.conftest import made
from .conftest import DIALOGUES, FOLDER, FOUR, NEW_TOKENS, Oracle, check

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
pytest.importorskip("peft", reason="visualglm[train] brings it; make test-vllm installs it")
import torch
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


@pytest.mark.parametrize("bits", [None, 4])
def test_two_processes_equal_transformers(bits: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_backend, "available", lambda: False)  # it rounds activations, which hides small mistakes
    monkeypatch.setenv("VISUALGLM_KERNEL", "none")  # and in vLLM's processes
    folder = FOLDER
    if bits is not None:
        folder = convert(str(FOLDER), tmp_path / "stored", quantize=quantization_plan(bits), with_fingerprint=False)
    adapter = made(tmp_path / "noise", str(FOLDER), "lora", f"lora.targets={FOUR}", size=0.05)
    llm = LLM(
        str(folder),
        dtype="float32",
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        max_model_len=1024,
        max_num_seqs=8,
        enable_lora=True,
    )
    oracle, sampling = Oracle(folder), SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)
    asked = list(DIALOGUES.values())
    requests = [None] * len(asked) + [LoRARequest("noise", 1, str(adapter))] * len(asked)
    outputs = llm.chat([*asked, *asked], sampling, use_tqdm=False, lora_request=requests)
    with torch.inference_mode():
        answers = [oracle.answer(messages) for messages in asked]
        oracle.opened.add_adapter(adapter)
        answers += [oracle.answer(messages) for messages in asked]
    for output, answer in zip(outputs, answers, strict=True):
        check(output, answer)
    assert [answer.ids for answer in answers[: len(asked)]] != [answer.ids for answer in answers[len(asked) :]]
