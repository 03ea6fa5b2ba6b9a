"""CPU linears and one-query attention in compiled C.

    input [..., in_features] -- int8 per group, on the fly --> times arranged weights --> [..., out_features]

int8 and int4 weights are put into the kernel's order once (`arrange_int8`, `arrange_int4`); the reverse is exact.
Activations are rounded to 8 bits per group of inputs: the weights' group for int4, 64 for int8. bfloat16 weights are
read in their stored order.
"""

from __future__ import annotations

from ctypes import CDLL, c_int64

import torch
from torch import Tensor

from . import mapped_memory
from .library import PATHS, library

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
QUANTIZED_DTYPES = {**DTYPES, torch.float16: 2}
LARGEST_GROUP = LARGEST_HEAD = 512
MAX_FAST_ROWS = 4
"""Rows of one call. At eight rows torch's GEMM is as fast; a prompt has more and always uses it."""


def available() -> bool:
    """Return whether the compiled kernel was built and loads."""
    return library() is not None


def path() -> str:
    """Return the instruction set in use: avx512-vnni, avx2 or portable; "none" where the kernel was not built."""
    opened = library()
    return "none" if opened is None else PATHS[opened.visualglm_path()]


def use(path_name: str | None) -> None:
    """Select an instruction set, to compare them; None selects the fastest one."""
    _opened().visualglm_use_path(-1 if path_name is None else PATHS.index(path_name))


def serves_group(group_size: int) -> bool:
    """Return whether the kernel takes int4 groups of this size."""
    return group_size % 8 == 0 and group_size <= LARGEST_GROUP


def quantizes(weight: Tensor) -> bool:
    """Return whether `quantize_int8` and `quantize_int4` take this matrix."""
    return available() and weight.device.type == "cpu" and weight.dtype in QUANTIZED_DTYPES


def quantize_int8(weight: Tensor, stored: Tensor, scale: Tensor) -> bool:
    """Quantize a matrix [out, in] into `stored` int8 [out, in] and `scale` float32 [out]; False if it is not finite."""
    weight = weight.contiguous()
    pointers = weight.data_ptr(), stored.data_ptr(), scale.data_ptr()
    dtype = QUANTIZED_DTYPES[weight.dtype]
    return not _opened().visualglm_quantize_int8(*pointers, dtype, *weight.shape, torch.get_num_threads())


def quantize_int4(
    weight: Tensor, stored: Tensor, scale: Tensor, group_size: int, importance: Tensor | None = None
) -> bool:
    """Quantize a matrix [out, in] into `stored` uint8 and `scale` float16, as `packing` shapes them.

    `importance` [in] weights the errors. Returns False if a number is not finite.
    """
    weight, counts = weight.contiguous(), None if importance is None else importance.float().contiguous()
    failed = _opened().visualglm_quantize_int4(
        weight.data_ptr(),
        None if counts is None else counts.data_ptr(),
        stored.data_ptr(),
        scale.data_ptr(),
        QUANTIZED_DTYPES[weight.dtype],
        *weight.shape,
        group_size,
        torch.get_num_threads(),
    )
    return not failed


def arrange_int8(weight: Tensor) -> Tensor:
    """int8 [out, in] -> the kernel's bytes, one dimension."""
    arranged = _room(_opened().visualglm_int8_bytes(*weight.shape))
    _move_int8(weight.contiguous(), arranged, back=False)
    return arranged


def plain_int8(arranged: Tensor, rows: int, inputs: int) -> Tensor:
    """Undo `arrange_int8`: int8 [rows, inputs]."""
    weight = mapped_memory.empty((rows, inputs), torch.int8)
    _move_int8(weight, arranged, back=True)
    return weight


def rows_int8(arranged: Tensor, ids: Tensor, inputs: int) -> Tensor:
    """Look up rows `ids` [...] of an arranged matrix in stored form: int8 [..., inputs]."""
    lanes, line = 16, 4  # of the layout: a line holds 4 inputs of 16 rows
    lines = _opened().visualglm_int8_bytes(1, inputs) // (lanes * line)
    blocks = arranged.view(-1, lines, lanes, line)
    rows = blocks[ids // lanes, :, ids % lanes].flatten(-2)[..., :inputs]
    return (rows ^ 128).view(torch.int8)


def arrange_int4(weight: Tensor, weight_scale: Tensor, group_size: int) -> Tensor:
    """uint8 [out, in / 2] with float16 scales [out, in / group] -> the kernel's bytes, scales among them."""
    rows, inputs = weight.shape[0], 2 * weight.shape[1]
    arranged = _room(_opened().visualglm_int4_bytes(rows, inputs, group_size))
    _move_int4(weight.contiguous(), weight_scale.to(torch.float16).contiguous(), arranged, group_size, back=False)
    return arranged


def plain_int4(arranged: Tensor, rows: int, inputs: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Undo `arrange_int4`: uint8 [rows, inputs / 2] and float16 [rows, inputs / group]; `inputs` padded."""
    weight = mapped_memory.empty((rows, inputs // 2), torch.uint8)
    scales = mapped_memory.empty((rows, inputs // group_size), torch.float16)
    _move_int4(weight, scales, arranged, group_size, back=True)
    return weight, scales


def linear_int8(x: Tensor, arranged: Tensor, weight_scale: Tensor) -> Tensor:
    """`x` [..., in] times weights of `arrange_int8` with float32 scales [out] -> [..., out] in x's dtype."""
    outputs, inputs = weight_scale.shape[0], x.shape[-1]
    rows, output = _prepared(x, outputs)
    failed = _opened().visualglm_linear_int8(
        rows.data_ptr(),
        arranged.data_ptr(),
        weight_scale.data_ptr(),
        output.data_ptr(),
        DTYPES[rows.dtype],
        rows.numel() // inputs,
        inputs,
        outputs,
        torch.get_num_threads(),
    )
    return _finished(output, x, outputs, failed)


def linear_int4(x: Tensor, arranged: Tensor, outputs: int, group_size: int) -> Tensor:
    """`x` [..., in] times weights of `arrange_int4` -> [..., outputs] in x's dtype."""
    inputs = x.shape[-1]
    rows, output = _prepared(x, outputs)
    failed = _opened().visualglm_linear_int4(
        rows.data_ptr(),
        arranged.data_ptr(),
        output.data_ptr(),
        DTYPES[rows.dtype],
        rows.numel() // inputs,
        inputs,
        outputs,
        group_size,
        torch.get_num_threads(),
    )
    return _finished(output, x, outputs, failed)


def serves_bfloat16(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether `linear_bfloat16` takes these tensors and beats torch: AVX512, at most `MAX_FAST_ROWS`."""
    half = x.dtype == weight.dtype == torch.bfloat16 and (bias is None or bias.dtype == torch.bfloat16)
    fits = x.dim() > 0 and x.shape[-1] == weight.shape[1] and weight.is_contiguous()
    return half and fits and 0 < x.numel() <= MAX_FAST_ROWS * x.shape[-1] and path() == "avx512-vnni"


def linear_bfloat16(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply `x` [..., in] by `weight` [out, in] and add `bias` [out]: all bfloat16, summed in float32."""
    outputs, inputs = weight.shape
    rows, output = _prepared(x, outputs)
    bias = None if bias is None else bias.contiguous()
    failed = _opened().visualglm_linear_bfloat16(
        rows.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        output.data_ptr(),
        rows.numel() // inputs,
        inputs,
        outputs,
        torch.get_num_threads(),
    )
    return _finished(output, x, outputs, failed)


def read(memory: Tensor) -> int:
    """Read every byte of `memory` once at full speed, to measure bandwidth; returns a checksum."""
    total: int = _opened().visualglm_read(memory.data_ptr(), memory.nbytes, torch.get_num_threads())
    return total


def multiply() -> int:
    """Multiply int8 registers at full speed, to measure the peak; returns the number of products, 0 without VNNI."""
    products: int = _opened().visualglm_multiply(torch.get_num_threads())
    return products


def attends(query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
    """Return whether `attend` takes these dtypes, this head size and this mask."""
    known_mask = mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1)
    return query.dtype == key.dtype and query.dtype in DTYPES and query.shape[-1] <= LARGEST_HEAD and known_mask


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """softmax(q k scaling) v of one query per row and head [B, heads, 1, head_dim], computed in float32.

    `key` and `value` [B, heads, keys, head_dim] may be slices of a longer cache; `mask` [B, 1, 1, keys] is True where a
    key is seen.
    """
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value.to(key.dtype)))
    batch, heads, _, head_dim = query.shape
    if mask is not None:
        mask = mask.expand(batch, 1, 1, key.shape[2]).contiguous()
    output = torch.empty(query.shape, dtype=query.dtype)
    strides = (c_int64 * 9)(*query.stride()[:2], *key.stride()[:3], *value.stride()[:3], key.shape[2])
    failed = _opened().visualglm_attend(
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        None if mask is None else mask.data_ptr(),
        output.data_ptr(),
        strides,
        DTYPES[query.dtype],
        batch,
        heads,
        key.shape[2],
        head_dim,
        scaling,
        torch.get_num_threads(),
    )
    return _finished(output, query, heads * head_dim, failed)


def _opened() -> CDLL:
    opened = library()
    if opened is None:
        raise RuntimeError("the compiled kernel was not built. Call available() first.")
    return opened


def _move_int8(weight: Tensor, arranged: Tensor, back: bool) -> None:
    """Fill the arranged int8 order from the stored one, or the reverse (`back`)."""
    rows, inputs = weight.shape
    threads = torch.get_num_threads()
    _opened().visualglm_arrange_int8(weight.data_ptr(), arranged.data_ptr(), rows, inputs, int(back), threads)


def _move_int4(weight: Tensor, scales: Tensor, arranged: Tensor, group_size: int, back: bool) -> None:
    """Fill the arranged int4 order and its scales from the stored ones, or the reverse (`back`)."""
    rows, inputs = weight.shape[0], 2 * weight.shape[1]
    pointers = weight.data_ptr(), scales.data_ptr(), arranged.data_ptr()
    _opened().visualglm_arrange_int4(*pointers, rows, inputs, group_size, int(back), torch.get_num_threads())


def _room(size: int) -> Tensor:
    room = mapped_memory.empty((size,), torch.uint8)
    _opened().visualglm_huge_pages(room.data_ptr(), size)
    return room


def _prepared(x: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Return the input as the kernel reads it (contiguous float32 or bfloat16) and an empty output."""
    rows = (x if x.dtype in DTYPES else x.float()).contiguous()
    return rows, torch.empty(*x.shape[:-1], outputs, dtype=rows.dtype)


def _finished(output: Tensor, x: Tensor, outputs: int, failed: int) -> Tensor:
    if failed:
        raise MemoryError(f"The kernel found no memory for {outputs} outputs.")
    return output if output.dtype == x.dtype else output.to(x.dtype)
