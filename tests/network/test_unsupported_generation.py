"""Methods of generation that cannot work here are refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from visualglm.errors import UsageError

from .test_model_invariants import prompt, tiny

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prefill_chunk_size": 4}, "prefill_chunk_size is not supported"),
    ({"token_healing": True}, "token_healing is not supported"),
    ({"guidance_scale": 2.0}, "Give negative_prompt_ids"),
    ({"cache_implementation": "paged"}, "continuous batching is not supported"),
]


@pytest.mark.parametrize("settings, message", REFUSED)
def test_refused_by_argument_and_by_configuration(settings: dict[str, Any], message: str) -> None:
    model, ids = tiny(), torch.tensor([prompt(0, [20, 21])])
    with pytest.raises(UsageError, match=message):
        model.generate(ids, max_new_tokens=2, **settings)
    with pytest.raises(UsageError, match=message):
        model.generate(ids, generation_config=GenerationConfig(max_new_tokens=2, **settings))


def test_continuous_batching_is_refused() -> None:
    model = tiny()
    for call in (
        lambda: model.generate_batch(inputs=[prompt(0, [20])]),
        model.init_continuous_batching,
        lambda: model.continuous_batching_context_manager().__enter__(),
    ):
        with pytest.raises(UsageError, match="Call generate with a padded batch"):
            call()


def test_guidance_with_a_negative_prompt_works() -> None:
    model, ids = tiny(), torch.tensor([prompt(0, [20, 21])])
    arguments: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": None}
    plain = model.generate(ids, **arguments)
    other = torch.tensor([prompt(0, [30])])
    assert torch.equal(model.generate(ids, guidance_scale=1.0, **arguments), plain)
    assert model.generate(ids, guidance_scale=3.0, negative_prompt_ids=other, **arguments).shape == plain.shape
