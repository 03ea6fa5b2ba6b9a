"""Attention of one query: the kernel against the written-out one, over slices of a cache, masked rows, odd numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from visualglm.kernels import cpu_backend, decode_attention

pytestmark = pytest.mark.skipif(not cpu_backend.available(), reason="the kernel was not built")


def heads(keys: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return a query, and keys and values that fill a part of a longer cache; the values are of a fused projection."""
    torch.manual_seed(0)
    query = torch.randn(2, 1, 3, 3 * head_dim, dtype=dtype).transpose(1, 2)[..., :head_dim]
    key, value = (torch.randn(2, 3, keys + 9, head_dim, dtype=dtype)[:, :, :keys] for _ in range(2))
    return query, key, value


@pytest.mark.parametrize("path", cpu_backend.PATHS)
@pytest.mark.parametrize(("keys", "head_dim"), [(1, 16), (7, 20), (130, 128), (33, 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_it_is_attention(path: str, keys: int, head_dim: int, dtype: torch.dtype, tolerance: float) -> None:
    query, key, value = heads(keys, head_dim, dtype)
    mask = torch.ones(2, 1, 1, keys, dtype=torch.bool)
    mask[1, ..., : keys // 2] = False
    cpu_backend.use(path)
    try:
        for seen in (None, mask):
            found = decode_attention.on_cpu(query, key, value, seen, 0.3)
            wanted = decode_attention.by_products(query.float(), key.float(), value.float(), seen, 0.3)
            assert found.shape == wanted.shape and found.dtype == dtype
            torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=tolerance)
    finally:
        cpu_backend.use(None)


def test_a_row_has_the_same_bits_alone_and_on_any_number_of_threads() -> None:
    query, key, value = heads(3000, 64, torch.float32)
    together, threads = cpu_backend.attend(query, key, value, None, 0.1), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(cpu_backend.attend(query, key, value, None, 0.1), together)
            assert torch.equal(cpu_backend.attend(query[1:], key[1:], value[1:], None, 0.1), together[1:])
    finally:
        torch.set_num_threads(threads)


def test_a_cache_of_another_dtype_is_refused_as_by_sdpa() -> None:
    query, key, value = heads(5, 16, torch.float32)
    with pytest.raises(RuntimeError, match="BFloat16"):
        decode_attention.on_cpu(query, key.bfloat16(), value.bfloat16(), None, 1.0)


def test_what_is_no_number_stays_in_its_head() -> None:
    query, key, value = heads(5, 16, torch.float32)
    key[0, 1, 2] = float("nan")
    found = cpu_backend.attend(query, key, value, None, 1.0)
    assert found[0, 1].isnan().all() and not found[0, 0].isnan().any() and not found[1].isnan().any()
