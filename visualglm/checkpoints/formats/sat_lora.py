"""Separate LoRA from the base weights in a sat file.

sat's `lora2.py` replaces a linear layer by its own, so a fine-tuned file has `X.original.weight`, `X.matrix_A.i`
[rank, in] and `X.matrix_B.i` [out / parts, rank] where the base has `X.weight`; the parts (three of query_key_value,
one of dense) add to consecutive rows. In: names and tensors of the file. Out: the base's names and tensors, and one
`LowRank` per changed weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..checkpoint import Checkpoint
from ..low_rank_delta import LowRank
from ..storage.lazy_tensor import LazyTensor, is_finite

ORIGINAL = ".original."
MATRIX = re.compile(r"(?P<linear>.+)\.matrix_(?P<side>[AB])\.(?P<part>\d)")
SATS_ALPHA = 1.0
"""Default alpha of `LoraMixin`, which upstream's fine-tuning never changes and no file states."""


def split_lora(stored: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], dict[str, LowRank]]:
    """Split a file's tensors into the base's, under their plain names, and the LoRA by weight name.

    Raises:
        CheckpointError: a layer's matrices do not belong together.
    """
    matrices: dict[str, dict[str, dict[int, LazyTensor]]] = {}
    base: dict[str, LazyTensor] = {}
    for name, tensor in stored.items():
        match = MATRIX.fullmatch(name)
        if match is None:
            base[name.replace(ORIGINAL, ".")] = tensor
        else:
            sides = matrices.setdefault(match["linear"], {"A": {}, "B": {}})
            sides[match["side"]][int(match["part"])] = tensor
    return base, {f"{linear}.weight": _low_rank(linear, sides, base) for linear, sides in matrices.items()}


def _low_rank(linear: str, sides: dict[str, dict[int, LazyTensor]], base: Mapping[str, LazyTensor]) -> LowRank:
    downs, ups = ([sides[side][part] for part in sorted(sides[side])] for side in "AB")
    weight = base.get(f"{linear}.weight")
    if weight is None or not _fit(weight.shape, downs, ups):
        raise CheckpointError(
            f"The LoRA matrices of {linear} do not fit each other or its weight, so the fine-tuned file is incomplete. "
            "Copy it again."
        )
    rank, parts = downs[0].shape[0], len(downs)
    down = LazyTensor(
        (rank * parts, weight.shape[1]), downs[0].dtype, lambda: torch.cat([tensor.read() for tensor in downs])
    )
    up = LazyTensor(
        (weight.shape[0], rank * parts), ups[0].dtype, lambda: torch.block_diag(*(tensor.read() for tensor in ups))
    )
    return LowRank(down, up, SATS_ALPHA / rank)


def _fit(weight: tuple[int, ...], downs: list[LazyTensor], ups: list[LazyTensor]) -> bool:
    if not downs or len(downs) != len(ups) or len(weight) != 2:
        return False
    rank = downs[0].shape[0] if downs[0].shape else 0
    if rank == 0:
        return False
    across = all(down.shape == (rank, weight[1]) for down in downs) and all(up.shape[1:] == (rank,) for up in ups)
    return across and sum(up.shape[0] for up in ups) == weight[0]


def merge_lora(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with its LoRA merged into the weights, in their dtypes."""
    if not checkpoint.low_rank:
        return checkpoint
    tensors: dict[str, Any] = dict(checkpoint.tensors)
    for name, low_rank in checkpoint.low_rank.items():
        tensors[name] = _sum(name, tensors[name], low_rank)
    return replace(checkpoint, tensors=tensors, low_rank={})


def _sum(name: str, weight: LazyTensor, low_rank: LowRank) -> LazyTensor:
    def read() -> Tensor:
        merged = (weight.read().float() + low_rank.delta()).to(weight.dtype)
        if not is_finite(merged):
            raise CheckpointError(
                f"{name} is NaN or infinite after its LoRA is added. Copy the folder again, or train it again."
            )
        return merged

    return LazyTensor(weight.shape, weight.dtype, read)
