"""`LowRank`: what LoRA adds to one weight, as two lazy matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from .storage.lazy_tensor import LazyTensor


@dataclass(frozen=True)
class LowRank:
    """Delta of one weight [out, in]: `scaling * up @ down`; `down` is [rank, in], `up` is [out, rank].

    Several parts are joined: their `down` matrices are stacked, their `up` matrices form a block diagonal.
    """

    down: LazyTensor
    up: LazyTensor
    scaling: float

    @property
    def rank(self) -> int:
        """Rows of `down`: the file's rank times the number of parts."""
        return self.down.shape[0]

    def delta(self) -> Tensor:
        """Compute the delta [out, in] in float32, as sat's `merge_linear_lora` does."""
        return self.up.read().float() @ self.down.read().float() * self.scaling

    def regrouped(self, regroup: Callable[[LazyTensor], LazyTensor]) -> LowRank:
        """Return the delta for a weight with its rows in another order."""
        return replace(self, up=regroup(self.up))
