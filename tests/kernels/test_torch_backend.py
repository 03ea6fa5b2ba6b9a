"""Where our kernel was not built, torch's own compute with the same weights and give them back bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from visualglm.kernels import cpu_backend, reference
from visualglm.quantization import Bits, QuantizedLinear
from visualglm.quantization.quantized_embedding import QuantizedEmbedding


@pytest.fixture(autouse=True)
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_backend, "available", lambda: False)


@pytest.mark.parametrize(("bits", "group_size", "inputs"), [(8, 32, 256), (4, 32, 256), (4, 64, 200)])
@torch.no_grad()
def test_bfloat16_is_multiplied_by_torch(bits: Bits, group_size: int, inputs: int) -> None:
    torch.manual_seed(0)
    linear = QuantizedLinear.of(nn.Linear(inputs, 80), bits, group_size)
    before = copy.deepcopy(linear.state_dict())
    x = torch.randn(2, 3, inputs, dtype=torch.bfloat16)
    found, expected = linear(x), reference.linear(x.float(), *linear.stored()) + linear.bias
    assert linear.arranged is not None and found.dtype == x.dtype and found.shape == expected.shape
    assert (found - expected).norm() < 0.01 * expected.norm()
    assert all(torch.equal(linear.state_dict()[name], numbers) for name, numbers in before.items())
    torch.testing.assert_close(linear(x.float()), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("bits", "shape", "dtype"),
    [(4, (64, 75), torch.bfloat16), (8, (200, 64), torch.bfloat16), (4, (64, 64), torch.float32)],
)
@torch.no_grad()
def test_what_torch_has_no_fast_kernel_for_is_written_out(
    bits: Bits, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    linear = QuantizedLinear.of(nn.Linear(*shape), bits)
    linear(torch.randn(1, shape[0], dtype=dtype))
    assert linear.arranged is None and not linear.weight.is_meta


@torch.no_grad()
def test_a_table_gives_its_rows() -> None:
    table = QuantizedEmbedding.of(nn.Embedding(90, 64), 8)
    rows = table(torch.arange(90))
    table.product(torch.randn(1, 64, dtype=torch.bfloat16))
    assert table.arranged is not None and torch.equal(table(torch.arange(90)), rows)
