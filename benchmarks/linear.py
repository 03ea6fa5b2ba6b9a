"""A 4096 x 4096 matrix of the 6B, by our kernel and by torch's, on one thread (`make bench-linear`).

Each kernel multiplies with more matrices than fit any cache; seconds are CPU time of the only thread, which other
processes do not lengthen. Stores `benchmarks/results/linear.json`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, origin, store
from torch import Tensor
from torch.nn import functional as F

from visualglm.hardware.machine_report import BandwidthProbe, timed_alone
from visualglm.kernels import cpu_backend, operators  # noqa: F401  (the latter registers)

RESULT = RESULTS / "linear.json"
SIZE, GROUP = 4096, 32
WEIGHTS_OF_THE_6B = 28 * 12 * SIZE * SIZE + 130528 * SIZE
"""Weights that a decoded token multiplies with: 28 blocks and the head."""
Multiply = Callable[[Tensor], Any]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    probe = BandwidthProbe()
    report = {
        **origin(__file__),
        "kernel": cpu_backend.path(),
        "kernels": [measured(name, *made(), probe, arguments.repeat) for name, made in KERNELS.items()],
    }
    store(arguments.output, report)


def measured(
    name: str, matrices: list[Multiply], size: int, dtype: torch.dtype, probe: BandwidthProbe, repeat: int
) -> dict[str, Any]:
    """Measure one kernel at 1, 8 and 64 rows, and the bandwidth in between."""
    rows = {}
    for count in (1, 8, 64):
        x, seconds, bandwidths = torch.randn(count, SIZE).to(dtype), [], []
        for _ in range(repeat if count < 64 else 2):
            seconds += [timed_alone(multiply, x)[1] for multiply in matrices[: len(matrices) if count < 64 else 2]]
            bandwidths.append(probe.measure())
        middle = statistics.median(seconds)
        rows[str(count)] = {
            "milliseconds": round(1000 * middle, 3),
            "gb_per_second": round(size / middle / 1e9, 2),
            "of_bandwidth": round(size / middle / statistics.median(bandwidths), 3),
            "gop_per_second": round(2 * count * SIZE * SIZE / middle / 1e9, 1),
        }
    per_token = rows["1"]["milliseconds"] / 1000 * WEIGHTS_OF_THE_6B / SIZE**2
    return {"name": name, "rows": rows, "tokens_per_second_linears_only": round(1 / per_token, 2)}


def int4() -> tuple[list[Multiply], int, torch.dtype]:
    """Return our 4-bit kernel, groups of 32."""
    stored = torch.randint(0, 256, (SIZE, SIZE // 2), dtype=torch.uint8)
    scales = torch.rand(SIZE, SIZE // GROUP).half()
    arranged = [cpu_backend.arrange_int4(stored, scales, GROUP) for _ in range(6)]
    calls: list[Multiply] = [lambda x, w=w: cpu_backend.linear_int4(x, w, SIZE, GROUP) for w in arranged]
    return calls, arranged[0].nbytes, torch.bfloat16


def int8() -> tuple[list[Multiply], int, torch.dtype]:
    """Return our 8-bit kernel, a scale per row."""
    stored, scales = torch.randint(-127, 128, (SIZE, SIZE), dtype=torch.int8), torch.rand(SIZE)
    arranged = [cpu_backend.arrange_int8(stored) for _ in range(4)]
    return [lambda x, w=w: cpu_backend.linear_int8(x, w, scales) for w in arranged], stored.nbytes, torch.bfloat16


def few_rows() -> tuple[list[Multiply], int, torch.dtype]:
    """Return the bfloat16 linear: ours for up to 4 rows, torch's above."""
    weights = [torch.randn(SIZE, SIZE).bfloat16() for _ in range(3)]
    calls: list[Multiply] = [lambda x, w=w: torch.ops.visualglm.linear_few_rows(x, w, None) for w in weights]
    return calls, 2 * SIZE**2, torch.bfloat16


def torch_int4() -> tuple[list[Multiply], int, torch.dtype]:
    """Return torch's 4-bit kernel, groups of 32, a scale and a zero per group."""
    numbers = torch.randint(0, 16, (SIZE, SIZE), dtype=torch.int32)
    packed = [torch._convert_weight_to_int4pack_for_cpu(numbers, 1) for _ in range(6)]
    scales = torch.rand(SIZE // GROUP, SIZE, 2).bfloat16()
    calls: list[Multiply] = [lambda x, w=w: torch._weight_int4pack_mm_for_cpu(x, w, GROUP, scales) for w in packed]
    return calls, packed[0].nbytes + scales.nbytes, torch.bfloat16


def torch_int8() -> tuple[list[Multiply], int, torch.dtype]:
    """Return torch's 8-bit kernel, a scale per row."""
    weights = [torch.randint(-127, 128, (SIZE, SIZE), dtype=torch.int8) for _ in range(4)]
    scales = torch.rand(SIZE).bfloat16()
    return [lambda x, w=w: torch._weight_int8pack_mm(x, w, scales) for w in weights], SIZE**2, torch.bfloat16


def bfloat16() -> tuple[list[Multiply], int, torch.dtype]:
    """Return torch's plain bfloat16 linear."""
    weights = [torch.randn(SIZE, SIZE).bfloat16() for _ in range(3)]
    return [lambda x, w=w: F.linear(x, w) for w in weights], 2 * SIZE**2, torch.bfloat16


KERNELS = {
    "int4": int4,
    "int8": int8,
    "few_rows": few_rows,
    "torch_int4": torch_int4,
    "torch_int8": torch_int8,
    "bfloat16": bfloat16,
}

if __name__ == "__main__":
    main()
