"""The stored formats: how far off a linear is, what every shape and number does, and what is refused."""

from __future__ import annotations

import pytest
import torch

from visualglm.errors import QuantizationError
from visualglm.kernels import cpu_backend
from visualglm.kernels.library import PATHS
from visualglm.quantization import dequantize_weight, quantize_weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def output_error(weight: torch.Tensor, stored: torch.Tensor, inputs: torch.Tensor) -> float:
    """Relative error of inputs @ weight.T."""
    wanted = inputs @ weight.T
    return float((inputs @ stored.T - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("bits", "group_size", "bound"), [(8, 32, 0.010), (4, 32, 0.083), (4, 64, 0.093)])
def test_output_error_on_gaussian_numbers(bits: int, group_size: int, bound: float) -> None:
    weight, inputs = gaussian(256, 1024), gaussian(64, 1024, seed=1)
    stored = dequantize_weight(*quantize_weight(weight, bits, group_size), 1024)
    assert output_error(weight, stored, inputs) <= bound


def test_the_searched_scale_beats_the_plain_rule() -> None:
    weight = gaussian(128, 512)
    groups = weight.view(128, -1, 32)
    plain = groups.abs().amax(-1, keepdim=True) / 7
    plain_error = ((groups / plain).round() * plain - groups).norm()
    searched = dequantize_weight(*quantize_weight(weight, 4), 512)
    assert (searched - weight).norm() < 0.9 * plain_error


def test_importance_moves_the_error_to_where_it_does_not_count() -> None:
    weight, counts = gaussian(64, 128), gaussian(128, seed=2).exp() ** 2
    error = [
        (((dequantize_weight(*quantize_weight(weight, 4, importance=given), 128) - weight) ** 2) * counts).sum()
        for given in (None, counts)
    ]
    assert error[1] < 0.97 * error[0]


@pytest.mark.parametrize("in_features", [1, 2, 31, 32, 33, 100])
def test_any_width_is_padded_to_whole_groups(in_features: int) -> None:
    weight = gaussian(5, in_features)
    stored, scale = quantize_weight(weight, 4)
    groups = -(-in_features // 32)
    assert stored.shape == (5, groups * 16) and scale.shape == (5, groups)
    assert (dequantize_weight(stored, scale, in_features) - weight).abs().max() < 0.35
    padding = torch.stack([stored & 15, stored >> 4], -1).flatten(-2)[:, in_features:]
    assert (padding == 8).all()


def test_the_layout_is_the_documented_one() -> None:
    weight = torch.zeros(1, 32)
    weight[0, :4] = torch.tensor([-8.0, 7.0, 1.0, -1.0])
    stored, scale = quantize_weight(weight, 4)
    assert stored.dtype == torch.uint8 and scale.dtype == torch.float16
    assert scale.tolist() == [[1.0]]
    assert stored[0, :3].tolist() == [0 + 16 * 15, 9 + 16 * 7, 8 + 16 * 8]
    stored, scale = quantize_weight(torch.tensor([[-1.27, 0.5]]), 8)
    assert stored.tolist() == [[-127, 50]] and scale.dtype == torch.float32


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_zeros_stay_zeros_and_half_precision_is_taken(bits: int, dtype: torch.dtype) -> None:
    weight = gaussian(8, 64).to(dtype)
    weight[2], weight[3, 32:] = 0, 0
    back = dequantize_weight(*quantize_weight(weight, bits), 64, dtype)
    assert back.dtype == dtype
    assert (back[2] == 0).all() and (back[3, 32:] == 0).all()


def test_an_outlier_spoils_its_group_only() -> None:
    weight = gaussian(4, 128)
    weight[1, 5] = 1000.0
    error = (dequantize_weight(*quantize_weight(weight, 4), 128) - weight).abs()
    assert error[1, 5] < 2  # 1000 is kept within the resolution of a float16 scale
    assert error[1, 32:].max() < 0.3 and error[[0, 2, 3]].max() < 0.3


FORMS = [
    (bits, dtype, group_size, weighed)
    for dtype in cpu_backend.QUANTIZED_DTYPES
    for bits, group_size, weighed in ((8, 32, False), (4, 16, False), (4, 32, False), (4, 256, False), (4, 32, True))
]


@pytest.mark.skipif(not cpu_backend.available(), reason="needs the compiled kernel")
@pytest.mark.parametrize(("bits", "dtype", "group_size", "weighed"), FORMS)
def test_the_kernel_quantizes_as_torch_does(
    bits: int, dtype: torch.dtype, group_size: int, weighed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every path gives the same bits; torch sums in another order, so that near ties may fall the other way."""
    weight = (gaussian(60, 700) * 0.02).to(dtype)
    weight[3], weight[4, 8:24] = 0, -0.5
    importance = gaussian(700, seed=3).abs() if weighed else None
    found = []
    for name in PATHS:
        cpu_backend.use(name)
        found.append(quantize_weight(weight, bits, group_size, importance))
    cpu_backend.use(None)
    monkeypatch.setattr(cpu_backend, "quantizes", lambda weight: False)
    stored, scale = quantize_weight(weight, bits, group_size, importance)
    assert all(torch.equal(one[0], found[0][0]) and torch.equal(one[1], found[0][1]) for one in found)
    assert (found[0][0] == stored).float().mean() >= (1 if bits == 8 else 0.999)
    assert (found[0][1] == scale).float().mean() >= (1 if bits == 8 else 0.995)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(bits: int, value: float, dtype: torch.dtype) -> None:
    weight = gaussian(4, 64).to(dtype)
    weight[1, 5] = value
    with pytest.raises(QuantizationError, match="finite"):
        quantize_weight(weight, bits)


def test_formats_that_are_not_offered_are_refused() -> None:
    with pytest.raises(QuantizationError, match="8 or 4"):
        quantize_weight(gaussian(4, 64), 3)  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match="group size of 7"):
        quantize_weight(gaussian(4, 64), 4, 7)
    with pytest.raises(QuantizationError, match="500,000"):
        quantize_weight(gaussian(4, 64) * 1e6, 4)
    with pytest.raises(QuantizationError, match="Give a matrix"):
        quantize_weight(gaussian(4), 8)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_same_bits_on_one_thread_and_two(bits: int) -> None:
    weight, found = gaussian(300, 1100), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(quantize_weight(weight, bits))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
