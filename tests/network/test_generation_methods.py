"""Methods of transformers' `generate`: each gives what a loop over `forward` gives, or is refused in one sentence.

transformers tests these with a mixin that its sdist lacks.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from visualglm.errors import UsageError

from .test_model_invariants import padded, prompt, tiny

IMAGES = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
BATCH = {**padded([prompt(1, [20, 21]), prompt(2, [30])]), "pixel_values": IMAGES}
NEW = 6
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": None}


def log_probabilities(model: Any, batch: dict[str, Tensor], rows: Tensor) -> Tensor:
    """Log probabilities [B, new tokens, vocabulary] of a pass over whole rows without a cache."""
    new = rows.shape[1] - batch["input_ids"].shape[1]
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, new), value=1)
    with torch.no_grad():
        logits = model(rows, attention_mask=mask, pixel_values=batch["pixel_values"], use_cache=False).logits
    return logits[:, -new - 1 : -1].float().log_softmax(-1)


def single(row: int) -> dict[str, Tensor]:
    """One row of the batch with its images."""
    images = IMAGES[:1] if row == 0 else IMAGES[1:]
    return {name: BATCH[name][row : row + 1] for name in ("input_ids", "attention_mask")} | {"pixel_values": images}


def greedy(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Most likely ids [B, NEW] by a loop over `forward` without a cache."""
    rows = batch["input_ids"]
    for _ in range(NEW):
        grown = torch.nn.functional.pad(rows, (0, 1))
        rows = torch.cat([rows, log_probabilities(model, batch, grown)[:, -1:].argmax(-1)], dim=1)
    return rows[:, -NEW:]


@pytest.mark.parametrize("cache", [{"use_cache": False}, {}, {"cache_implementation": "static"}])
def test_greedy(cache: dict[str, Any]) -> None:
    model = tiny()
    assert torch.equal(model.generate(**BATCH, **GREEDY, **cache)[:, -NEW:], greedy(model, BATCH))


def test_outputs_by_request() -> None:
    model = tiny()
    asked = {f"output_{name}": True for name in ("scores", "logits", "attentions", "hidden_states")}
    model.set_attn_implementation("eager")
    output = model.generate(**BATCH, **GREEDY, **asked, return_dict_in_generate=True)
    expected = log_probabilities(model, BATCH, output.sequences)
    for step in range(NEW):
        torch.testing.assert_close(output.logits[step].log_softmax(-1), expected[:, step], atol=1e-4, rtol=1e-4)
    assert len(output.hidden_states) == len(output.attentions) == len(output.scores) == NEW
    assert output.hidden_states[1][0].shape[:2] == (2, 1)
    assert output.attentions[1][0].shape[-1] == BATCH["input_ids"].shape[1] + 1


def test_sampling_draws_from_the_distribution() -> None:
    model = tiny()
    arguments = {"do_sample": True, "max_new_tokens": 1, "eos_token_id": None, "top_k": 3, "temperature": 2.0}
    torch.manual_seed(0)
    drawn = model.generate(**single(0), **arguments, num_return_sequences=64)[:, -1]
    grown = torch.nn.functional.pad(single(0)["input_ids"], (0, 1))
    likely = log_probabilities(model, single(0), grown)[0, -1].topk(3).indices
    assert set(drawn.tolist()) <= set(likely.tolist()) and len(set(drawn.tolist())) > 1
    torch.manual_seed(0)
    assert torch.equal(model.generate(**single(0), **arguments, num_return_sequences=64)[:, -1], drawn)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("returned", [1, 3])
def test_beams_have_the_scores_of_their_rows(sampled: bool, returned: int) -> None:
    """A wrong reordering of cache, images or positions would change the scores."""
    model = tiny()
    torch.manual_seed(0)
    how = GREEDY | {"do_sample": sampled, "num_beams": 3, "num_return_sequences": returned, "length_penalty": 0.0}
    output = model.generate(**BATCH, **how, output_scores=True, return_dict_in_generate=True, top_k=0, top_p=1.0)
    for row in range(2):
        rows = output.sequences[row * returned : (row + 1) * returned]
        one = single(row)
        repeated = {name: one[name].expand(returned, -1) for name in ("input_ids", "attention_mask")}
        images = one["pixel_values"].repeat(returned, 1, 1, 1)
        found = log_probabilities(model, repeated | {"pixel_values": images}, rows)
        total = found.gather(-1, rows[:, -NEW:, None]).sum((1, 2))
        scores = output.sequences_scores[row * returned : (row + 1) * returned]
        torch.testing.assert_close(total, scores, atol=1e-3, rtol=1e-3)
        if not sampled:
            best = log_probabilities(model, one, torch.cat([one["input_ids"], greedy(model, one)], dim=1))
            assert total[0] >= best.max(-1).values.sum() - 1e-3


@pytest.mark.parametrize("helper", ["same", "other", "prompt lookup"])
def test_guessed_tokens_change_nothing(helper: str) -> None:
    """Assisted generation crops the cache after a wrong guess."""
    model = tiny()
    how: dict[str, Any] = {"prompt_lookup_num_tokens": 2}
    if helper != "prompt lookup":
        assistant = tiny()
        if helper == "other":
            torch.manual_seed(5)
            for value in assistant.parameters():
                value.data.add_(0.02 * torch.randn_like(value))
        how = {"assistant_model": assistant}
    for row in range(2):
        output = model.generate(**single(row), **GREEDY, **how)
        assert torch.equal(output[:, -NEW:], greedy(model, single(row)))


def test_an_answer_ends_and_continues() -> None:
    model = tiny()
    whole = greedy(model, single(0))
    end = int(whole[0, 2])
    stopped = model.generate(**single(0), **GREEDY | {"eos_token_id": end})
    assert stopped.shape[1] - single(0)["input_ids"].shape[1] == whole[0].tolist().index(end) + 1
    half = model.generate(**single(0), **GREEDY | {"max_new_tokens": 3})
    mask = torch.nn.functional.pad(single(0)["attention_mask"], (0, 3), value=1)
    rest = model.generate(half, attention_mask=mask, pixel_values=IMAGES[:1], **GREEDY | {"max_new_tokens": 3})
    assert torch.equal(rest[:, -NEW:], whole)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 0.5},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"dola_layers": "high"},
        {"constraints": []},
        {"force_words_ids": [[20]], "num_beams": 2},
        {"assistant_early_exit": 1},
        {"use_mtp": True},
    ],
)
def test_methods_for_other_models_or_of_the_hub_are_refused(settings: dict[str, Any]) -> None:
    model, name = tiny(), next(iter(settings))
    with pytest.raises(UsageError, match=rf"^{name} (asks for|is not supported)"):
        model.generate(**single(0), **GREEDY, **settings)
    with pytest.raises(UsageError, match=rf"^{name} (asks for|is not supported)"):
        model.generate(**single(0), generation_config=GenerationConfig(**GREEDY, **settings))
    assert model.generate(**single(0), **GREEDY, num_beam_groups=1).shape[0] == 1
