"""Arranged weights: an implementation detail of the CPU that nobody who saves, moves or trains a model may notice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from visualglm.kernels import cpu_backend
from visualglm.quantization import Bits, QuantizedLinear
from visualglm.quantization.quantized_embedding import QuantizedEmbedding, TiedHead

pytestmark = pytest.mark.skipif(not cpu_backend.available(), reason="the kernel was not built")
CASES: list[tuple[Bits, int]] = [(8, 32), (4, 32), (4, 64)]


@pytest.fixture(params=CASES, ids=str)
def linear(request: pytest.FixtureRequest) -> QuantizedLinear:
    torch.manual_seed(0)
    return QuantizedLinear.of(nn.Linear(200, 75), *request.param)


def test_the_first_answer_arranges_and_every_later_one_is_the_same(linear: QuantizedLinear) -> None:
    x = torch.randn(3, 200)
    with torch.no_grad():
        results = [linear(x) for _ in range(3)]
    assert linear.arranged is not None and linear.weight.is_meta
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    torch.testing.assert_close(results[0], x @ linear.dequantized().T + linear.bias, rtol=0.05, atol=0.02)


@torch.no_grad()
def test_the_state_is_the_stored_one(linear: QuantizedLinear) -> None:
    before, x = copy.deepcopy(linear.state_dict()), torch.randn(2, 200)
    result = linear(x)
    after = linear.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    other = QuantizedLinear(200, 75, True, linear.bits, linear.group_size)
    other(x)
    other.load_state_dict(after)
    assert torch.equal(other(x), result)


@torch.no_grad()
def test_casts_and_copies_go_through_the_stored_form(linear: QuantizedLinear) -> None:
    x = torch.randn(2, 200)
    result = linear(x)
    twin = copy.deepcopy(linear)
    assert twin.arranged is None and torch.equal(twin(x), result)
    assert torch.equal(linear.to(torch.float64).to(torch.float32)(x), result)


@torch.no_grad()
def test_an_input_of_another_width_is_refused(linear: QuantizedLinear) -> None:
    for width in (190, 400):
        with pytest.raises(ValueError, match="must be 200"):
            linear(torch.randn(1, width))


def test_training_after_an_answer_has_its_derivative(linear: QuantizedLinear) -> None:
    with torch.no_grad():
        linear(torch.randn(1, 200))
    x = torch.randn(4, 200, requires_grad=True)
    linear(x).sum().backward()
    torch.testing.assert_close(x.grad, linear.dequantized().sum(0).expand(4, -1))


@torch.no_grad()
def test_compilers_see_one_operator(linear: QuantizedLinear) -> None:
    linear(torch.randn(1, 200))
    program = torch.export.export(linear, (torch.randn(2, 200),))
    assert f"visualglm.arranged_int{linear.bits}" in program.graph_module.code


@torch.no_grad()
def test_a_tied_head_and_its_table_share_the_arranged_numbers() -> None:
    torch.manual_seed(0)
    table = QuantizedEmbedding.of(nn.Embedding(100, 72), 8)
    head, ids, hidden = TiedHead(table), torch.tensor([[0, 99], [17, 3]]), torch.randn(2, 72)
    rows, state = table(ids), copy.deepcopy(table.state_dict())
    logits = head(hidden)
    assert table.arranged is not None and torch.equal(table(ids), rows)
    torch.testing.assert_close(logits, hidden @ table(torch.arange(100)).T, rtol=0.05, atol=0.3)
    assert all(torch.equal(table.state_dict()[name], numbers) for name, numbers in state.items())


@pytest.mark.parametrize("bits", [8, 4])
def test_a_weight_of_another_shape_is_refused_before_a_kernel_reads_it(bits: Bits) -> None:
    linear = QuantizedLinear(64, 32, bits=bits)
    linear.weight = linear.weight[:, :16].clone()
    with pytest.raises(ValueError, match="must be"), torch.inference_mode():
        linear(torch.ones(1, 64))
