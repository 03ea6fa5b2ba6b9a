"""The language model's linears: `nn.Linear` to everybody, another road for a decoding step in bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import visualglm
from visualglm.kernels import cpu_backend
from visualglm.kernels.cpu_backend import MAX_FAST_ROWS
from visualglm.kernels.fast_linear import FastLinear, use_fast_linear
from visualglm.network.stem import FrozenLinear
from visualglm.network.vision import ZeroLinear


class Seen(TorchDispatchMode):
    """The operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def linear() -> FastLinear:
    torch.manual_seed(0)
    return FastLinear(40, 24).bfloat16().requires_grad_(False)


def ran(linear: FastLinear, x: Tensor) -> bool:
    with Seen() as seen:
        linear(x)
    return "visualglm::linear_few_rows" in seen.names


def test_few_rows_take_the_other_road_and_say_the_same(linear: FastLinear) -> None:
    for shape in [(40,), (1, 40), (3, 1, 40), (MAX_FAST_ROWS, 40)]:
        x = torch.randn(*shape).bfloat16()
        assert ran(linear, x)
        exact = F.linear(x.float(), linear.weight.float(), linear.bias.float())
        torch.testing.assert_close(linear(x).float(), exact, rtol=0.01, atol=0.01)
    assert not ran(linear, torch.randn(MAX_FAST_ROWS + 1, 40).bfloat16())


def test_everything_else_is_torchs(linear: FastLinear) -> None:
    x = torch.randn(1, 40).bfloat16()
    with torch.enable_grad():
        assert not ran(linear, x)
        linear.bias.requires_grad_()
        linear(x).sum().backward()
        assert torch.equal(linear.bias.grad, torch.ones(24).bfloat16())
    with torch.autocast("cpu"):
        assert not ran(linear, x)
    assert not ran(linear.float(), x.float())


def test_a_loaded_model_has_them_and_a_built_one_torchs() -> None:
    """All but the layers of a stem, which have classes of their own."""
    loaded = visualglm.load(device="cpu", dtype="bfloat16").model
    assert _linears(loaded) - {FrozenLinear, ZeroLinear} == {FastLinear}
    for model in (visualglm.load(device="cpu", dtype="float32").model, type(loaded)(loaded.config)):
        assert _linears(model) - {FrozenLinear, ZeroLinear} == {nn.Linear}
        assert [*model.state_dict()] == [*loaded.state_dict()]


def _linears(model: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in model.modules() if isinstance(module, nn.Linear)}


def test_modules_are_replaced_and_parameters_shared() -> None:
    """A module that somebody else holds or has hooked stays what it was."""
    plain, tied, hooked, wrapped, wide = (nn.Linear(8, 8).bfloat16() for _ in range(5))
    tied.weight = plain.weight
    hooked.register_forward_hook(lambda module, args, output: output + 1)
    wrapped.forward = lambda x: x  # type: ignore[method-assign]  # as accelerate's and our mixins' are
    model = nn.Sequential(plain, nn.Sequential(tied), hooked, wrapped, wide.float(), nn.Linear(8, 8, False).bfloat16())
    model.eval().requires_grad_(False)
    before, random = model.state_dict(), torch.get_rng_state()
    assert use_fast_linear(model) is model and torch.equal(torch.get_rng_state(), random)
    assert [type(model[place]) is FastLinear for place in range(6)] == [True, False, False, False, False, True]
    assert type(plain) is nn.Linear and type(model[1][0]) is FastLinear and not model[0].training
    assert model[0].weight is plain.weight is model[1][0].weight and model[5].bias is None
    after = model.state_dict()
    assert [*after] == [*before] and all(after[name].data_ptr() == before[name].data_ptr() for name in before)


def test_no_rows_wrong_widths_and_odd_tensors(linear: FastLinear) -> None:
    assert linear(torch.zeros(0, 40, dtype=torch.bfloat16)).shape == (0, 24)
    for width in (20, 39, 80, 160):  # whatever divides into rows of 40, too
        with pytest.raises(RuntimeError):
            linear(torch.randn(1, width).bfloat16())
    x, wide = torch.randn(2, 40).bfloat16(), torch.randn(24, 80).bfloat16()
    linear.weight = nn.Parameter(wide[:, ::2], requires_grad=False)
    torch.testing.assert_close(linear(x), F.linear(x, wide[:, ::2].contiguous(), linear.bias), rtol=0.01, atol=0.01)


def test_the_kernel_is_asked_where_it_is_faster() -> None:
    x, weight, bias = torch.randn(1, 40).bfloat16(), torch.randn(24, 40).bfloat16(), torch.randn(24)
    if cpu_backend.available():
        assert cpu_backend.serves_bfloat16(x, weight, None) == (cpu_backend.path() == "avx512-vnni")
    for other in (x.expand(MAX_FAST_ROWS + 1, 40), x.float(), x[:, :20], x[0, 0]):
        assert not cpu_backend.serves_bfloat16(other, weight, None)
    assert not cpu_backend.serves_bfloat16(x, weight, bias)
