"""Logits that are not finite inside vLLM: the request ends in one sentence, the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from visualglm.network.sampling import NO_ANSWER

from ..adapters.conftest import made
from .conftest import DIALOGUES, FOLDER, NEW_TOKENS, Answer, check

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
pytest.importorskip("peft", reason="visualglm[train] brings it; make test-vllm installs it")
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from visualglm.vllm_plugin.finite_logits import mark_rows

GREEDY = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)
SAMPLED = SamplingParams(temperature=1.0, top_p=0.5, top_k=20, repetition_penalty=1.2, max_tokens=NEW_TOKENS, n=2)


@pytest.mark.parametrize(
    "row, bad",
    [
        ([0.0, 1.0, -2.0], False),
        ([0.0, 1.0, -torch.inf], False),
        ([0.0, torch.inf, 1.0], True),
        ([0.0, 1.0, torch.nan], True),
        ([-torch.inf] * 3, True),
    ],
)
def test_only_rows_without_an_answer_are_marked(row: list[float], bad: bool) -> None:
    logits = torch.tensor([[5.0, 6.0, 7.0], row])
    assert mark_rows(logits.clone()).isnan().any(-1).tolist() == [False, bad]
    assert torch.equal(mark_rows(logits.clone())[0], logits[0])


@pytest.mark.parametrize("asynchronous", [True, False])
def test_only_the_requests_that_overflow_end(asynchronous: bool, expected: dict[str, Answer], tmp_path: Path) -> None:
    """The adapter's numbers are finite, what is computed with them is not."""
    overflowing = LoRARequest("overflowing", 1, str(made(tmp_path / "large", str(FOLDER), "lora", size=1e30)))
    engines = [LLM(str(FOLDER), dtype="float32", enable_lora=True, async_scheduling=asynchronous)]
    adapters = [None, overflowing] * len(DIALOGUES)
    asked = [messages for messages in DIALOGUES.values() for _ in range(2)]
    for sampling in (GREEDY, SAMPLED, GREEDY):
        outputs = engines[0].chat(asked, sampling, use_tqdm=False, lora_request=adapters)
        for output in outputs[1::2]:
            ends = {(said.finish_reason, said.stop_reason, said.text) for said in output.outputs}
            assert ends == {("error", NO_ANSWER, "")}
        for output, answer in zip(outputs[::2], expected.values(), strict=True):
            if sampling is GREEDY:
                check(output, answer)
            assert {said.finish_reason for said in output.outputs} <= {"stop", "length"}
    engines.clear()
