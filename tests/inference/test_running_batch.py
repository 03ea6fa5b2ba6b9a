"""Rows that enter and leave a running batch answer as each does alone, whatever the attention and the prefix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache

import visualglm
from visualglm.inference.batch_generation import GenerationRow
from visualglm.inference.generation_settings import generation_settings
from visualglm.inference.running_batch import RunningBatch
from visualglm.network.configuration import VisualGLMConfig
from visualglm.network.prefix_tuning import PrefixMixin
from visualglm.network.rotary import PrefixState
from visualglm.network.row_cache import FREE_TOKENS, RowCache

from .test_batch_generation import ASKED, SAMPLES, rows


def run(model: Any, waiting: list[Any], size: int) -> list[Any]:
    """Answer rows, at most `size` at once, each entering as soon as there is room; return them as they left."""
    batch: RunningBatch[Any] = RunningBatch(model)
    left: list[Any] = []
    waiting = list(waiting)
    while waiting or batch.rows:
        while waiting and len(batch.rows) < size:
            row = waiting.pop(0)
            batch.add(row)
            left += [row] if row.ended else []
        left += batch.step()
    return left


@pytest.mark.parametrize("size", [1, 2, 6])
def test_every_row_says_what_ask_says(opened: visualglm.VisualGLM, size: int) -> None:
    entered = rows(opened)
    left = run(opened.model, entered, size)
    assert sorted(map(id, left)) == sorted(map(id, entered))
    for row, (place, question, sampling) in zip(entered, ASKED, strict=True):
        alone = opened.ask(None if place is None else SAMPLES[place], question, **sampling)
        assert opened.row_answer(row, alone.seconds) == alone, question


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("prefix", [0, 4])
def test_logits_are_those_of_a_row_alone(attention: str, prefix: int) -> None:
    model = tiny_model(attention, prefix)
    entered = [tiny_row(model, length) for length in (9, 3, 70, 5)]
    seen: dict[int, list[torch.Tensor]] = {id(row): [] for row in entered}
    for row in entered:
        run(model, [watched(row, seen)], 1)
    alone = {key: torch.stack(found) for key, found in seen.items()}
    seen.update({id(row): [] for row in entered})
    for row in entered:
        row.restart()
    run(model, [watched(row, seen) for row in entered], 3)
    for key, expected in alone.items():
        torch.testing.assert_close(torch.stack(seen[key]), expected, rtol=0, atol=1e-5)


def tiny_model(attention: str, prefix: int) -> Any:
    """Four layers of random weights, with a prefix that is seen."""
    torch.manual_seed(0)
    config = VisualGLMConfig.from_pretrained(visualglm.packed_model())
    config.prefix_length = prefix
    model = visualglm.VisualGLMForConditionalGeneration._from_config(
        config, dtype=torch.float32, attn_implementation=attention
    ).eval()
    for mixin in model.mixins.values():
        assert isinstance(mixin, PrefixMixin)
        torch.nn.init.normal_(mixin.prefix[0])
    return model


def tiny_row(model: Any, length: int) -> GenerationRow:
    config = model.config
    ids = [*torch.randint(10, 1000, (length,)).tolist(), config.gmask_token_id, config.bos_token_id]
    return GenerationRow(ids, None, generation_settings(model, do_sample=False, min_length=90, max_new_tokens=8))


def watched(row: GenerationRow, seen: dict[int, list[torch.Tensor]]) -> GenerationRow:
    def note(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen[id(row)].append(scores[0].clone())
        return scores

    row.settings.beside["logits_processor"] = [note]
    return row


def test_a_row_ended_from_outside_leaves(opened: visualglm.VisualGLM) -> None:
    entered = rows(opened)[:2]
    batch: RunningBatch[Any] = RunningBatch(opened.model)
    for row in entered:
        batch.add(row)
    entered[0].ended = True
    assert batch.step() == [entered[0]]
    assert batch.rows == [entered[1]] and len(entered[0].ids) == 1


def test_what_a_row_leaves_behind_reaches_no_other() -> None:
    """A row of NaN goes; the next one takes its index, and is masked where the other was longer."""
    cache = RowCache()
    for length, value in ((5, 1.0), (9, torch.nan)):
        cache.add(filled(length, value))
    assert cache.get_seq_length() == 9
    cache.remove(1)
    cache.add(filled(2, 3.0))
    arguments = cache.next_step()
    key = torch.full((2, 1, 1, 4), 7.0)
    keys, _ = cache.update(key, key, 0)
    assert keys[1, 0, :, 0].tolist() == [3.0, 3.0, 7.0, 0.0, 0.0, 0.0]
    assert arguments["attention_mask"][1, 0, 0].tolist() == [True] * 3 + [False] * 3
    assert arguments["rotary_positions"].tolist() == [[[1], [6]], [[1], [3]]]


def test_memory_follows_the_rows() -> None:
    cache = RowCache()

    cache.add(filled(2000, 1.0))
    cache.add(filled(5, 1.0))
    cache.remove(0)
    cache.add(filled(7, 1.0))
    assert cache._keys[0].shape[2] == 7 + FREE_TOKENS
    cache.remove(0)
    cache.remove(0)
    assert cache._keys == [] and cache.get_seq_length() == 0


def filled(length: int, value: float) -> Any:
    """Return a prompt's cache of one layer, one head, of one value."""
    cache = DynamicCache()
    cache.update(torch.full((1, 1, length, 4), value), torch.full((1, 1, length, 4), value), 0)
    PrefixState(torch.tensor([[1, length]]), length).remember(cache)
    return cache
