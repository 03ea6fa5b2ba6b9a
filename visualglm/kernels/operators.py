"""Register the torch operators of namespace `visualglm`.

    visualglm::linear_int8(input, weight, weight_scale)
    visualglm::linear_int4(input, weight, weight_scale, group_size)
    visualglm::arranged_int8(input, arranged, weight_scale)                  the same by a backend, with weights in
    visualglm::arranged_int4(input, arranged, out_features, group_size)      the backend's order (`arrange_int4`)
    visualglm::linear_few_rows(input, weight, bias)                          `F.linear` for a decoding step
    visualglm::attend_one(query, key, value, mask, scaling)                  attention of one query per row

input [..., in_features] in float32, bfloat16 or float16 -> [..., out_features] in the same dtype; quantized weights
as `packing` stores them, without bias. Compilers and exporters see each as one call. They have no derivative:
`quantization/quantized_linear.py` defines it. Importing this file registers them.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from . import cpu_backend, decode_attention, reference, torch_backend

LIBRARY = torch.library.Library("visualglm", "DEF")
LIBRARY.define("linear_int8(Tensor input, Tensor weight, Tensor weight_scale) -> Tensor")
LIBRARY.define("linear_int4(Tensor input, Tensor weight, Tensor weight_scale, int group_size) -> Tensor")
LIBRARY.define("arranged_int8(Tensor input, Tensor arranged, Tensor weight_scale) -> Tensor")
LIBRARY.define("arranged_int4(Tensor input, Tensor arranged, int out_features, int group_size) -> Tensor")
LIBRARY.define("attend_one(Tensor query, Tensor key, Tensor value, Tensor? mask, float scaling) -> Tensor")
LIBRARY.define("linear_few_rows(Tensor input, Tensor weight, Tensor? bias) -> Tensor")
LIBRARY.impl("linear_few_rows", F.linear, "CompositeExplicitAutograd")
LIBRARY.impl("attend_one", decode_attention.by_products, "CompositeExplicitAutograd")
LIBRARY.impl("attend_one", decode_attention.on_cpu, "CPU")


def arranger(weight: Tensor) -> ModuleType:
    """Return the backend of this weight: the compiled kernel, or torch on a GPU and where that was not built."""
    return cpu_backend if weight.device.type == "cpu" and cpu_backend.available() else torch_backend


@torch.library.impl(LIBRARY, "arranged_int8", "CompositeExplicitAutograd")
def arranged_int8(input: Tensor, arranged: Tensor, weight_scale: Tensor) -> Tensor:
    """Multiply `input` by an arranged int8 weight with float32 scales [out]."""
    return arranger(arranged).linear_int8(input, arranged, weight_scale)  # type: ignore[no-any-return]


@torch.library.impl(LIBRARY, "arranged_int4", "CompositeExplicitAutograd")
def arranged_int4(input: Tensor, arranged: Tensor, out_features: int, group_size: int) -> Tensor:
    """Multiply `input` by an arranged int4 weight, which holds its scales."""
    return arranger(arranged).linear_int4(input, arranged, out_features, group_size)  # type: ignore[no-any-return]


@torch.library.impl(LIBRARY, "linear_int8", "CompositeExplicitAutograd")
def linear_int8(input: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """Multiply `input` by the dequantized matrix of `weight` int8 [out, in] and `weight_scale` [out]."""
    return reference.linear(input, weight, weight_scale)


@torch.library.impl(LIBRARY, "linear_int4", "CompositeExplicitAutograd")
def linear_int4(input: Tensor, weight: Tensor, weight_scale: Tensor, group_size: int) -> Tensor:
    """Multiply `input` by the matrix of `weight` uint8 [out, padded_in / 2] and `weight_scale` [out, groups]."""
    return reference.linear(input, weight, weight_scale)


@torch.library.register_fake("visualglm::linear_int8", lib=LIBRARY)
def _fake_int8(input: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


@torch.library.register_fake("visualglm::linear_int4", lib=LIBRARY)
def _fake_int4(input: Tensor, weight: Tensor, weight_scale: Tensor, group_size: int) -> Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


@torch.library.register_fake("visualglm::arranged_int8", lib=LIBRARY)
def _fake_arranged_int8(input: Tensor, arranged: Tensor, weight_scale: Tensor) -> Tensor:
    return input.new_empty(*input.shape[:-1], weight_scale.shape[0])


@torch.library.register_fake("visualglm::arranged_int4", lib=LIBRARY)
def _fake_arranged_int4(input: Tensor, arranged: Tensor, out_features: int, group_size: int) -> Tensor:
    return input.new_empty(*input.shape[:-1], out_features)


@torch.library.impl(LIBRARY, "linear_few_rows", "CPU")
def linear_few_rows(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `F.linear`; in bfloat16 with the compiled kernel where that is faster."""
    if cpu_backend.available() and cpu_backend.serves_bfloat16(input, weight, bias):
        return cpu_backend.linear_bfloat16(input, weight, bias)
    return F.linear(input, weight, bias)


@torch.library.register_fake("visualglm::linear_few_rows", lib=LIBRARY)
def _fake_few_rows(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


@torch.library.register_fake("visualglm::attend_one", lib=LIBRARY)
def _fake_attend_one(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)
