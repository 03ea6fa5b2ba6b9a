"""Run the model's forward pass with the weights of one block in memory at a time.

In: a `Checkpoint`, ids [B, T], images [P, 3, H, W]. Out: the last position's logits [B, vocabulary] in float32, and
each block's output root mean square. The modules are the model's own; only the two vocabulary matrices are replaced by
modules that read rows from the file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..network.configuration import VisualGLMConfig
from ..network.visualglm import VisualGLMNetwork
from .checkpoint import LM_HEAD, WORD_EMBEDDINGS, Checkpoint
from .quantize import dequantized
from .storage.lazy_tensor import LazyTensor

HEAD_ROWS = 8192


class ForwardRecord(NamedTuple):
    """`logits` [B, vocabulary] of the last position; `fingerprints`: block -> [B] root mean squares, in order."""

    logits: Tensor
    fingerprints: dict[str, list[float]]


@torch.no_grad()
def run(
    checkpoint: Checkpoint,
    input_ids: Tensor,
    pixel_values: Tensor,
    watch: Callable[[nn.Module], None] = lambda model: None,
) -> ForwardRecord:
    """Run one pass in float32 with the eager kernel, from the stored weights of a complete checkpoint.

    `watch` is called with the empty model before it runs, to add hooks.
    """
    checkpoint = dequantized(checkpoint)
    tensors = checkpoint.tensors
    model = _empty_model(checkpoint.config)
    model.transformer.word_embeddings = _Rows(tensors[WORD_EMBEDDINGS])  # type: ignore[assignment]
    model.lm_head = _Head(tensors.get(LM_HEAD, tensors[WORD_EMBEDDINGS]))  # type: ignore[assignment]
    fingerprints: dict[str, list[float]] = {}
    blocks = dict(_blocks(model))
    for name, block in blocks.items():
        _lend_weights(name, block, tensors, fingerprints)
    small = [name for name, _ in model.named_parameters() if not any(name.startswith(f"{b}.") for b in blocks)]
    _fill(model, "", small, tensors)
    watch(model)
    logits = model(input_ids=input_ids, pixel_values=pixel_values, logits_to_keep=1, use_cache=False).logits
    return ForwardRecord(logits[:, -1], fingerprints)


def _empty_model(config: VisualGLMConfig) -> VisualGLMNetwork:
    config = copy.deepcopy(config)
    config.dtype, config._attn_implementation = torch.float32, "eager"
    with torch.device("meta"):
        return VisualGLMNetwork(config).eval()


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return the layers of the three networks: the members of their module lists."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            yield from ((f"{name}.{index}", block) for index, block in enumerate(module))


def _lend_weights(
    name: str, block: nn.Module, tensors: Mapping[str, LazyTensor], fingerprints: dict[str, list[float]]
) -> None:
    """Load the block's weights before its call, and free them after it."""
    names = [parameter for parameter, _ in block.named_parameters()]

    def before(module: nn.Module, args: Any) -> None:
        _fill(module, f"{name}.", names, tensors)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        module.to("meta")
        hidden = output[0] if isinstance(output, tuple) else output
        fingerprints[name] = hidden.float().flatten(1).pow(2).mean(1).sqrt().tolist()

    block.register_forward_pre_hook(before)
    block.register_forward_hook(after)


def _fill(module: nn.Module, prefix: str, names: list[str], tensors: Mapping[str, LazyTensor]) -> None:
    for name in names:
        owner, _, leaf = name.rpartition(".")
        numbers = tensors[prefix + name].read().float()
        setattr(module.get_submodule(owner), leaf, nn.Parameter(numbers, requires_grad=False))


class _Rows(nn.Module):
    """An embedding [vocabulary, hidden] that reads only the requested rows."""

    def __init__(self, table: LazyTensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, hidden]."""
        return self.table.read()[ids].float()


class _Head(nn.Module):
    """A head [vocabulary, hidden] that is converted to float32 a few rows at a time."""

    def __init__(self, table: LazyTensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, T, hidden] -> [B, T, vocabulary]."""
        return torch.cat([hidden_states @ rows.float().T for rows in self.table.read().split(HEAD_ROWS)], dim=-1)
