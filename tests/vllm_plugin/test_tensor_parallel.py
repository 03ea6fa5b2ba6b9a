"""Two processes with half of the heads each give the answers of one."""

from __future__ import annotations

import pytest

from .conftest import DIALOGUES, FOLDER, NEW_TOKENS, Answer

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
from vllm import LLM, SamplingParams


def test_two_processes_equal_transformers(expected: dict[str, Answer]) -> None:
    llm = LLM(
        str(FOLDER),
        dtype="float32",
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        max_model_len=512,
        max_num_seqs=8,
    )
    fitting = [name for name in DIALOGUES if len(expected[name].prompt) <= 512 - NEW_TOKENS]
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    outputs = llm.chat([DIALOGUES[name] for name in fitting], sampling, use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == [expected[name].ids for name in fitting]
