"""8-bit embedding table and the output head tied to it.

ids [...] -> rows [..., hidden] in the model's dtype; hidden states [..., hidden] -> logits [..., vocabulary]. Both use
one table with a scale per row, so a tied model stores it once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import QuantizationError
from ..kernels.operators import arranger
from ..kernels.packing import Bits, quantize_weight
from .packed_module import PackedModule
from .quantized_linear import apply_keeping_scale_dtype


class QuantizedEmbedding(PackedModule):
    """Buffers `weight` int8 [vocabulary, hidden] and `weight_scale` float32 [vocabulary]; rows come out in `dtype`.

    A tied head multiplies with the same table, so the table may be arranged for the kernel.
    """

    def __init__(self, rows: int, columns: int, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.bits = rows, columns, 8
        self.out_features, self.in_features = rows, columns
        self.dtype = dtype or torch.get_default_dtype()
        self.register_buffer("weight", torch.zeros(rows, columns, dtype=torch.int8, device=device))
        self.register_buffer("weight_scale", torch.zeros(rows, dtype=torch.float32, device=device))

    @classmethod
    def of(cls, embedding: nn.Embedding, bits: Bits) -> QuantizedEmbedding:
        """Quantize `embedding` on its device.

        Raises:
            QuantizationError: `bits` is 4, or see `quantize_weight`.
        """
        check_embedding(bits)
        made = cls(embedding.num_embeddings, embedding.embedding_dim, "meta", embedding.weight.dtype)
        made.weight, made.weight_scale = quantize_weight(embedding.weight.detach(), 8)
        return made

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids [...] -> [..., hidden]."""
        arranged = self.arranged
        rows = self.weight[ids] if arranged is None else arranger(arranged).rows_int8(arranged, ids, self.embedding_dim)
        return (rows * self.weight_scale[ids][..., None]).to(self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedEmbedding:
        self.restore()
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return apply_keeping_scale_dtype(self, super()._apply, fn, recurse)  # type: ignore[return-value]

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"{self.num_embeddings}, {self.embedding_dim}, bits=8"


class TiedHead(nn.Module):
    """Linear without bias that multiplies with an embedding's table; it has no state of its own."""

    table: QuantizedEmbedding

    def __init__(self, table: QuantizedEmbedding) -> None:
        super().__init__()
        object.__setattr__(self, "table", table)  # as a submodule its tensors would be saved twice
        self.in_features, self.out_features, self.bias = table.embedding_dim, table.num_embeddings, None

    @property
    def weight(self) -> Tensor:
        """The embedding's weight, int8 [vocabulary, hidden]."""
        return self.table.weight

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Compute [..., hidden] -> [..., vocabulary]."""
        return self.table.product(hidden_states)


def check_embedding(bits: Bits) -> None:
    """Raise `QuantizationError` unless an embedding can be stored in `bits` bits."""
    if bits != 8:
        raise QuantizationError("An embedding can only be stored in 8 bits. Choose 8, or leave it out.")
