"""The preallocated cache holds the same tensors as transformers' cache, also after changes between two tokens."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from visualglm.network.kv_cache import PreallocatedCacheLayer, preallocate


def grown(steps: list[int]) -> tuple[DynamicCache, DynamicCache]:
    """Return our layer and transformers' after updates with these numbers of tokens."""
    ours, theirs = preallocate(_one_layer()), _one_layer()
    torch.manual_seed(0)
    for new in steps:
        key, value = torch.randn(2, 3, new, 4), torch.randn(2, 3, new, 4)
        found, wanted = ours.update(key, value, 0), theirs.update(key, value, 0)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    return ours, theirs


def _one_layer() -> DynamicCache:
    cache = DynamicCache()
    cache.layers.append(cache.layer_class_to_replicate())
    return cache


def test_it_appends_in_place_and_reallocates_when_full() -> None:
    ours, theirs = grown([5, 1, 1, 1])
    assert isinstance(ours.layers[0], PreallocatedCacheLayer)
    before = ours.layers[0].keys.data_ptr()
    _feed(ours, theirs, 1)
    assert ours.layers[0].keys.data_ptr() == before
    _feed(ours, theirs, 500)
    assert ours.layers[0].keys.data_ptr() != before and ours.get_seq_length() == theirs.get_seq_length()


def test_a_reset_forgets_the_tokens() -> None:
    """Older transformers overwrite them with zeros, which later tokens then attend to."""
    ours, _ = grown([6, 1])
    ours.reset()
    assert ours.get_seq_length() == 0
    _feed(ours, _one_layer(), 2)


@pytest.mark.parametrize("change", ["crop", "repeat", "select"])
def test_changes_from_outside_are_seen(change: str) -> None:
    ours, theirs = grown([6, 1])
    for cache in (ours, theirs):
        if change == "crop":
            cache.crop(-2)
        elif change == "repeat":
            cache.batch_repeat_interleave(2)
        else:
            cache.batch_select_indices(torch.tensor([1, 0]))
    for _ in range(3):
        _feed(ours, theirs, 1)


def test_inference_mode_may_end_between_two_tokens() -> None:
    with torch.inference_mode():
        ours, theirs = grown([4])
    _feed(ours, theirs, 1)


def test_gradients_flow_through_it() -> None:
    ours, _ = grown([4])
    key = torch.randn(2, 3, 1, 4, requires_grad=True)
    keys, _ = ours.update(key, key, 0)
    keys.sum().backward()
    assert key.grad is not None


def _feed(ours: DynamicCache, theirs: DynamicCache, new: int) -> None:
    rows = theirs.layers[0].keys.shape[0] if theirs.layers[0].is_initialized else 2
    key, value = torch.randn(rows, 3, new, 4), torch.randn(rows, 3, new, 4)
    for found, wanted in zip(ours.update(key, value, 0), theirs.update(key, value, 0), strict=True):
        assert torch.equal(found, wanted)
