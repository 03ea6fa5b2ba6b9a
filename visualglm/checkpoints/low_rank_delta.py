"""`LowRank`: what LoRA adds to one weight, as two lazy matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from .storage.lazy_tensor import LazyTensor


@dataclass(frozen=True)
class LowRank:
    """What is added to one weight [out, in]: `scaling * up @ down`; `down` [rank, in], `up` [out, rank].

    Several parts are one: their `down` matrices under each other, their `up` matrices on a diagonal of blocks.
    """

    down: LazyTensor
    up: LazyTensor
    scaling: float

    @property
    def rank(self) -> int:
        """Rows of `down`: the file's rank times the parts."""
        return self.down.shape[0]

    def delta(self) -> Tensor:
        """[out, in] in float32, as sat's `merge_linear_lora` computes it."""
        return self.up.read().float() @ self.down.read().float() * self.scaling

    def regrouped(self, regroup: Callable[[LazyTensor], LazyTensor]) -> LowRank:
        """The same with the rows of the weight in another order."""
        return replace(self, up=regroup(self.up))
