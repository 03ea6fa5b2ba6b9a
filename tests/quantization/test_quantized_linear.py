"""The quantized linear: near the linear it was, its state, casts and derivatives, its operators."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from visualglm.quantization import QuantizedLinear

BOUND = {8: 0.015, 4: 0.10}


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(200, 96)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(200,), (1, 200), (3, 5, 200), (0, 200)])
def test_near_the_linear_it_was(linear: nn.Linear, bits: int, shape: tuple[int, ...]) -> None:
    inputs = torch.randn(*shape)
    found, wanted = QuantizedLinear.of(linear, bits)(inputs), linear(inputs)
    assert found.shape == wanted.shape
    assert (found - wanted).norm() <= BOUND[bits] * wanted.norm()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casts_leave_the_stored_numbers(linear: nn.Linear, bits: int, dtype: torch.dtype) -> None:
    made = QuantizedLinear.of(linear, bits)
    before = {name: made.state_dict()[name].clone() for name in ("weight", "weight_scale")}
    cast = made.to(dtype)
    inputs = torch.randn(4, 200, dtype=dtype)
    output = cast(inputs)
    assert output.dtype == dtype and cast.bias is not None and cast.bias.dtype == dtype
    assert (output.float() - linear.float()(inputs.float())).norm() <= BOUND[bits] * output.float().norm()
    for name, numbers in before.items():
        assert torch.equal(cast.float().state_dict()[name], numbers), name


@pytest.mark.parametrize("bits", [8, 4])
def test_state_goes_into_an_empty_one(linear: nn.Linear, bits: int) -> None:
    made = QuantizedLinear.of(linear, bits)
    empty = QuantizedLinear(200, 96, True, bits, device="meta").to_empty(device="cpu")
    empty.load_state_dict(made.state_dict())
    inputs = torch.randn(4, 200)
    assert torch.equal(empty(inputs), made(inputs))
    assert set(made.state_dict()) == {"weight", "weight_scale", "bias"}


@pytest.mark.parametrize("bits", [8, 4])
def test_inputs_get_their_gradient_and_the_stored_numbers_none(linear: nn.Linear, bits: int) -> None:
    made = QuantizedLinear.of(linear, bits)
    inputs = torch.randn(3, 200, requires_grad=True)
    made(inputs).square().sum().backward()
    twin = nn.Linear(200, 96)
    twin.weight.data, twin.bias.data = made.dequantized(), copy.deepcopy(linear.bias.data)
    same = inputs.detach().clone().requires_grad_()
    twin(same).square().sum().backward()
    assert inputs.grad is not None and same.grad is not None
    torch.testing.assert_close(inputs.grad, same.grad, rtol=1e-4, atol=1e-4)
    assert [name for name, _ in made.named_parameters()] == ["bias"]


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_not_finite_stays_in_its_row(linear: nn.Linear, bits: int) -> None:
    made, inputs = QuantizedLinear.of(linear, bits), torch.randn(3, 200)
    clean = made(inputs)
    inputs[1, 7] = float("nan")
    found = made(inputs)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("bits", [8, 4])
def test_one_input_far_above_the_others(linear: nn.Linear, bits: int) -> None:
    """Such models have channels of a hundred times the others' size; 8 bits then are coarse for their group."""
    made, inputs = QuantizedLinear.of(linear, bits), torch.randn(3, 200)
    inputs[:, 11] *= 100
    wanted = nn.functional.linear(inputs, made.dequantized(), made.bias)
    assert (made(inputs) - wanted).norm() <= 0.02 * wanted.norm()


@pytest.mark.parametrize("bits", [8, 4])
def test_compilers_see_one_operator(linear: nn.Linear, bits: int) -> None:
    made = QuantizedLinear.of(linear, bits)
    with torch.no_grad():
        program = torch.export.export(made, (torch.randn(3, 200),))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert f"visualglm.linear_int{bits}.default" in called
    meta = made.to("meta")(torch.empty(2, 200, device="meta"))
    assert meta.shape == (2, 96)
