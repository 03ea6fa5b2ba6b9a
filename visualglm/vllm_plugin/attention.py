"""The platform's attention backend with another metadata builder; no kernel is touched.

In: what vLLM's runner knows of a pass. Out: the platform's own metadata, in which a request whose prompt is read stands
as two sequences (prefix_split.py), and `prefix_of_rows` [rows] beside it, from which the model makes positions.

Leans on private parts of vLLM: the builders' `build`, the fields of `CommonAttentionMetadata`, and the prompt lengths
that the runner hands over as `rswa_prefix_lens` where the configuration has an `rswa_window` (engine_config.py sets
it, for nothing else). On CUDA the base is Triton's backend, whose kernel reads a causal flag for each sequence; that
side was read, not run.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from vllm.forward_context import get_forward_context
from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionBackend, AttentionCGSupport, CommonAttentionMetadata

from ..errors import UsageError
from .prefix_split import AttentionSegment, pieces, prefix_of_rows


@cache
def prefix_backend() -> type[AttentionBackend]:
    """This platform's backend, for prefix-LM."""
    base = _platform_backend()
    builder = type("PrefixMetadataBuilder", (_PrefixMetadata, base.get_builder_cls()), {})
    return type("PrefixBackend", (base,), {"get_builder_cls": staticmethod(lambda: builder)})


def prefix_length_per_row(layer_name: str, positions: torch.Tensor) -> torch.Tensor:
    """The prefix length of each row of this pass; while vLLM measures memory, everything is prefix."""
    metadata = get_forward_context().attn_metadata
    if metadata is None:
        return positions + 1
    return metadata[layer_name].prefix_of_rows.to(positions.device)


def _platform_backend() -> type[AttentionBackend]:
    if current_platform.is_cpu():
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        return CPUAttentionBackend
    if current_platform.is_cuda_alike():
        from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend

        return TritonAttentionBackend
    raise UsageError(f"vLLM's platform {current_platform.device_name} has no attention that VisualGLM can use.")


class _PrefixMetadata:
    """Goes before a builder of vLLM's."""

    _cudagraph_support = AttentionCGSupport.NEVER
    supports_update_block_table = False

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> Any:
        common, prompts = common_attn_metadata, common_attn_metadata.rswa_prefix_lens
        if prompts is None:
            raise RuntimeError("vLLM handed over no prompt lengths: the plugin's configuration was not applied.")
        starts = common.query_start_loc_cpu
        queries, lengths = (starts[1:] - starts[:-1]).tolist(), prompts.tolist()
        split = pieces(queries, _ends(common).tolist(), lengths)
        metadata = super().build(common_prefix_len, _with(common, split), fast_build)  # type: ignore[misc]
        metadata.prefix_of_rows = prefix_of_rows(queries, lengths, common.num_actual_tokens)
        return metadata


def _ends(common: CommonAttentionMetadata) -> torch.Tensor:
    """Each request's tokens up to the end of this pass, on the host; exact while a prompt is read."""
    known = common.seq_lens_cpu_upper_bound
    return common.seq_lens if known is None else known


def _with(common: CommonAttentionMetadata, split: list[AttentionSegment]) -> CommonAttentionMetadata:
    """The same pass, with these sequences in the place of its requests."""
    if all(piece.causal for piece in split):
        return common.replace(rswa_prefix_lens=None)
    device = common.seq_lens.device
    owners = torch.tensor([piece.request for piece in split])
    queries = torch.tensor([piece.queries for piece in split], dtype=torch.int32)
    keys = torch.tensor([piece.keys for piece in split], dtype=torch.int32)
    starts = torch.nn.functional.pad(queries.cumsum(0, dtype=torch.int32), (1, 0))
    return common.replace(
        query_start_loc=starts.to(device),
        query_start_loc_cpu=starts,
        seq_lens=keys.to(device),
        seq_lens_cpu_upper_bound=keys,
        num_reqs=len(split),
        max_query_len=int(queries.max()),
        max_seq_len=int(keys.max()),
        block_table_tensor=common.block_table_tensor[owners.to(device)],
        causal=torch.tensor([piece.causal for piece in split], dtype=torch.int32, device=device),
        is_prefilling=None,
        rswa_prefix_lens=None,
        _num_computed_tokens_cache=None,
        _token_to_req_indices_cache=None,
    )
