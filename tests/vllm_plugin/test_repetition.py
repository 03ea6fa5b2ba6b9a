"""`no_repeat_ngram_size` inside vLLM: the ids that transformers forbids."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from visualglm.network.sampling import AnswerNoRepeatNGram

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from visualglm.vllm_plugin.repetition import NoRepeatedNGrams, forbid_repeats

SOP, VOCABULARY = 9, 10


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_ids_that_transformers_forbids(size: int) -> None:
    """The prompt [1, 2, 1, 2] is not counted, and the answer is, from its first id on."""
    chance = random.Random(size)
    for length in [*range(8), 20, 40]:
        answer = [chance.randrange(4) for _ in range(length)]
        logits = torch.randn(1, VOCABULARY)
        expected = AnswerNoRepeatNGram(size, SOP)(torch.tensor([[1, 2, 1, 2, SOP, *answer]]), logits.clone())
        assert torch.equal(forbid_repeats(size, answer, logits[0].clone()), expected[0])


@pytest.mark.parametrize("stored, given, used", [(12, None, 12), (12, 0, None), (12, 3, 3), (0, None, None)])
def test_a_request_may_give_its_own_size(stored: int, given: int | None, used: int | None) -> None:
    model = SimpleNamespace(
        generation_config="auto",
        override_generation_config={},
        try_get_generation_config=lambda: {"no_repeat_ngram_size": stored} if stored else {},
    )
    processor = NoRepeatedNGrams(SimpleNamespace(model_config=model), torch.device("cpu"), False)
    extra = None if given is None else {"no_repeat_ngram_size": given}
    found = processor.new_req_logits_processor(SamplingParams(extra_args=extra))
    assert (found.args[0] if found else None) == used


@pytest.mark.parametrize("size", [-1, 1.5, "3", True, 10**6])
def test_a_size_that_means_nothing_is_refused(size: object) -> None:
    with pytest.raises(VLLMValidationError, match="whole number from 0 to 1024"):
        NoRepeatedNGrams.validate_params(SamplingParams(extra_args={"no_repeat_ngram_size": size}))
