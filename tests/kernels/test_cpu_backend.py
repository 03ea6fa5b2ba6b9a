"""The compiled kernel: every path against exact products, all shapes, the same bits in every company, odd numbers."""

from __future__ import annotations

import shutil
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from visualglm.kernels import cpu_backend
from visualglm.kernels.library import PATHS

TOLERANCE = 0.012
"""Relative error that 8-bit activations may add to a product with Gaussian numbers, on every path."""
SHAPES = [(16, 32, 1), (64, 256, 2), (100, 333, 3), (17, 64, 9), (5, 7, 17), (256, 1024, 8)]
built = pytest.mark.skipif(not cpu_backend.available(), reason="the kernel was not built")


def test_it_is_built_where_a_compiler_is() -> None:
    assert cpu_backend.available() or shutil.which("cc") is None, "run `make kernel`"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    cpu_backend.use(request.param)
    if cpu_backend.path() != request.param:
        pytest.skip(f"this processor has no {request.param}")
    request.addfinalizer(lambda: cpu_backend.use(None))
    return request.param


def int4_weight(outputs: int, inputs: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return stored weight and scales of random numbers, and the numbers that they stand for [outputs, inputs]."""
    numbers = torch.randint(-8, 8, (outputs, -(-inputs // group), group))
    numbers.flatten(1)[:, inputs:] = 0
    scales = torch.rand(outputs, numbers.shape[1]).half() + 0.01
    nibbles = (numbers + 8).to(torch.uint8).flatten(1)
    return nibbles[:, ::2] | nibbles[:, 1::2] << 4, scales, (numbers * scales[..., None].float()).flatten(1)[:, :inputs]


def int8_weight(outputs: int, inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    scales = torch.rand(outputs) + 0.01
    return weight, scales, weight * scales[:, None]


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.double().norm())


@built
@pytest.mark.parametrize("group", [8, 32, 64, 128])
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_is_the_product(path: str, shape: tuple[int, int, int], group: int) -> None:
    outputs, inputs, rows = shape
    weight, scales, numbers = int4_weight(outputs, inputs, group)
    arranged = cpu_backend.arrange_int4(weight, scales, group)
    back = cpu_backend.plain_int4(arranged, outputs, 2 * weight.shape[1], group)
    assert torch.equal(back[0], weight) and torch.equal(back[1], scales)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(2, rows, inputs, dtype=dtype)
        result = cpu_backend.linear_int4(x, arranged, outputs, group)
        assert result.dtype == dtype and result.shape == (2, rows, outputs)
        assert error(result, x.float() @ numbers.T) < TOLERANCE


@built
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_the_product(path: str, shape: tuple[int, int, int]) -> None:
    outputs, inputs, rows = shape
    weight, scales, numbers = int8_weight(outputs, inputs)
    arranged = cpu_backend.arrange_int8(weight)
    assert torch.equal(cpu_backend.plain_int8(arranged, outputs, inputs), weight)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(rows, inputs, dtype=dtype)
        assert error(cpu_backend.linear_int8(x, arranged, scales), x.float() @ numbers.T) < TOLERANCE


@built
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_the_product(path: str, shape: tuple[int, int, int]) -> None:
    outputs, inputs, rows = shape
    x, weight, bias = (torch.randn(*size).bfloat16() for size in ((2, rows, inputs), (outputs, inputs), (outputs,)))
    exact = F.linear(x.float(), weight.float(), bias.float())
    assert error(cpu_backend.linear_bfloat16(x, weight, bias), exact) < 0.003
    assert error(cpu_backend.linear_bfloat16(x, weight, None), exact - bias.float()) < 0.003


@built
def test_bfloat16_rows_have_the_same_bits_in_every_company(path: str) -> None:
    x, weight, threads = torch.randn(7, 330).bfloat16(), torch.randn(301, 330).bfloat16(), torch.get_num_threads()
    together = cpu_backend.linear_bfloat16(x, weight, None)
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(cpu_backend.linear_bfloat16(x, weight, None), together)
            assert torch.equal(cpu_backend.linear_bfloat16(x[4:5], weight, None), together[4:5])
    finally:
        torch.set_num_threads(threads)
    x[2, 7] = torch.nan
    found = cpu_backend.linear_bfloat16(x, weight, None)
    assert found[2].isnan().all() and torch.equal(found[3:], together[3:])


@built
@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads(path: str, bits: int) -> None:
    """300 outputs are 19 blocks of 16: pairs of blocks, and one that is left over."""
    if bits == 4:
        weight, scales, _ = int4_weight(300, 320, 32)
        multiply = partial(linear_int4, arranged=cpu_backend.arrange_int4(weight, scales, 32))
    else:
        weight, scales, _ = int8_weight(300, 320)
        multiply = partial(cpu_backend.linear_int8, arranged=cpu_backend.arrange_int8(weight), weight_scale=scales)
    x, threads = torch.randn(21, 320), torch.get_num_threads()
    together = multiply(x)
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(multiply(x), together)
            for rows in (slice(4, 5), slice(4, 6), slice(4, 7), slice(0, 8)):
                assert torch.equal(multiply(x[rows]), together[rows])
    finally:
        torch.set_num_threads(threads)


def linear_int4(x: torch.Tensor, arranged: torch.Tensor) -> torch.Tensor:
    return cpu_backend.linear_int4(x, arranged, 300, 32)


@built
def test_an_outlier_spoils_its_group_only(path: str) -> None:
    """One activation a thousand times larger: the other groups keep their precision."""
    weight, scales, numbers = int8_weight(64, 1024)
    arranged, x = cpu_backend.arrange_int8(weight), torch.randn(1, 1024)
    x[0, 5] = 1000
    rest = x.clone()
    rest[0, :64] = 0
    first = x - rest
    found = cpu_backend.linear_int8(x, arranged, scales) - cpu_backend.linear_int8(first, arranged, scales)
    assert error(found, rest @ numbers.T) < TOLERANCE


@built
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_reaches_its_row_and_no_other(path: str, odd: float) -> None:
    weight, scales, _ = int8_weight(40, 100)
    arranged, x = cpu_backend.arrange_int8(weight), torch.randn(3, 100)
    clean = cpu_backend.linear_int8(x, arranged, scales)
    x[1, 99] = odd
    result = cpu_backend.linear_int8(x, arranged, scales)
    assert result[1].isnan().all() and torch.equal(result[::2], clean[::2])


@built
def test_zeros_tiny_huge_and_no_rows(path: str) -> None:
    weight, scales, numbers = int8_weight(40, 100)
    arranged = cpu_backend.arrange_int8(weight)
    assert torch.equal(cpu_backend.linear_int8(torch.zeros(2, 100), arranged, scales), torch.zeros(2, 40))
    assert torch.equal(cpu_backend.linear_int8(torch.full((2, 100), 1e-38), arranged, scales), torch.zeros(2, 40))
    huge = torch.randn(2, 100) * 1e30
    assert error(cpu_backend.linear_int8(huge, arranged, scales), huge @ numbers.T) < TOLERANCE
    assert cpu_backend.linear_int8(torch.zeros(0, 100), arranged, scales).shape == (0, 40)


@built
def test_a_strided_input_is_read_as_it_is(path: str) -> None:
    weight, scales, _ = int8_weight(40, 96)
    arranged, x = cpu_backend.arrange_int8(weight), torch.randn(4, 200)
    view = x[:, 4:100]
    assert torch.equal(
        cpu_backend.linear_int8(view, arranged, scales), cpu_backend.linear_int8(view.clone(), arranged, scales)
    )


def test_the_paths_differ_by_rounding_only() -> None:
    if not cpu_backend.available():
        pytest.skip("the kernel was not built")
    weight, scales, _ = int4_weight(64, 512, 32)
    arranged, x = cpu_backend.arrange_int4(weight, scales, 32), F.normalize(torch.randn(4, 512), dim=-1)
    results = []
    for name in PATHS:
        cpu_backend.use(name)
        results.append(cpu_backend.linear_int4(x, arranged, 64, 32))
    cpu_backend.use(None)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)
