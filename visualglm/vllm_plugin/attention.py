"""Prefix-LM attention: the platform's backend with our metadata builder.

In: vLLM's metadata of one forward pass. Out: the platform's own metadata, in which each request in prefill becomes two
sequences (prefix_split.py), plus `prefix_of_rows` [rows], from which the model computes positions. The kernels are
unchanged.

Depends on private parts of vLLM: the builders' `build`, the fields of `CommonAttentionMetadata`, and the prompt lengths
that the runner passes as `rswa_prefix_lens` when the configuration has an `rswa_window` (engine_config.py sets it for
this purpose only). On a CPU also: the layout of the KV cache. On CUDA the base is Triton's backend, whose kernel reads
one causal flag per sequence; that path has not been run yet.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from vllm.forward_context import get_forward_context
from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionBackend, AttentionCGSupport, CommonAttentionMetadata

from ..errors import UsageError
from .prefix_split import AttentionSegment, prefix_of_rows, split_requests


@cache
def prefix_backend() -> type[AttentionBackend]:
    """Return this platform's attention backend, extended for prefix-LM.

    Raises:
        UsageError: the platform is neither a CPU nor CUDA-like.
    """
    base = _platform_backend()
    builder = type("PrefixMetadataBuilder", (_PrefixMetadata, base.get_builder_cls()), {})
    return type("PrefixBackend", (base,), {"get_builder_cls": staticmethod(lambda: builder)})


def prefix_length_per_row(layer_name: str, positions: torch.Tensor) -> torch.Tensor:
    """Return the prefix length of each row of this forward pass, [rows]."""
    metadata = get_forward_context().attn_metadata
    if metadata is None:  # vLLM is profiling memory: treat every row as part of a prefix
        return positions + 1
    return metadata[layer_name].prefix_of_rows.to(positions.device)


def zero_new_blocks() -> None:
    """Zero the KV cache blocks that this forward pass begins to fill, on a CPU.

    vLLM's CPU kernel multiplies what lies in the unused slots of a block by zero. If an earlier request left NaN or
    infinity there, the result is NaN. A block is filled from its first slot on, because prefix caching is off.
    """
    context = get_forward_context()
    if context.attn_metadata is None or not current_platform.is_cpu():
        return
    for name, metadata in context.attn_metadata.items():
        blocks = context.no_compile_layers[name].kv_cache  # [blocks, heads, slots, numbers]
        slots = metadata.slot_mapping[: metadata.num_actual_tokens]
        new = slots[slots % blocks.shape[2] == 0] // blocks.shape[2]
        if len(new):
            blocks[new] = 0


def _platform_backend() -> type[AttentionBackend]:
    if current_platform.is_cpu():
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        return CPUAttentionBackend
    if current_platform.is_cuda_alike():
        from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend

        return TritonAttentionBackend
    raise UsageError(
        f"VisualGLM has no attention backend for vLLM's platform {current_platform.device_name}. Use a CPU or a "
        "CUDA-like GPU."
    )


class _PrefixMetadata:
    """Mixin placed before one of vLLM's metadata builders; splits prompts into two sequences."""

    _cudagraph_support = AttentionCGSupport.NEVER
    supports_update_block_table = False

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> Any:
        common, prompts = common_attn_metadata, common_attn_metadata.rswa_prefix_lens
        if prompts is None:
            raise RuntimeError("vLLM passed no prompt lengths: the plugin's configuration was not applied.")
        starts = common.query_start_loc_cpu
        queries, lengths = (starts[1:] - starts[:-1]).tolist(), prompts.tolist()
        segments = split_requests(queries, _sequence_ends(common).tolist(), lengths)
        metadata = super().build(common_prefix_len, _replace_sequences(common, segments), fast_build)  # type: ignore[misc]
        metadata.prefix_of_rows = prefix_of_rows(queries, lengths, common.num_actual_tokens)
        return metadata


def _sequence_ends(common: CommonAttentionMetadata) -> torch.Tensor:
    """Return the tokens of each request at the end of this pass, [requests]; the host's bound is exact in prefill."""
    on_host = common.seq_lens_cpu_upper_bound
    return common.seq_lens if on_host is None else on_host


def _replace_sequences(common: CommonAttentionMetadata, segments: list[AttentionSegment]) -> CommonAttentionMetadata:
    """Return the metadata of the same pass with `segments` as its sequences."""
    if all(segment.causal for segment in segments):
        return common.replace(rswa_prefix_lens=None)
    device = common.seq_lens.device
    requests = torch.tensor([segment.request for segment in segments])
    queries = torch.tensor([segment.queries for segment in segments], dtype=torch.int32)
    keys = torch.tensor([segment.keys for segment in segments], dtype=torch.int32)
    starts = torch.nn.functional.pad(queries.cumsum(0, dtype=torch.int32), (1, 0))
    return common.replace(
        query_start_loc=starts.to(device),
        query_start_loc_cpu=starts,
        seq_lens=keys.to(device),
        seq_lens_cpu_upper_bound=keys,
        num_reqs=len(segments),
        max_query_len=int(queries.max()),
        max_seq_len=int(keys.max()),
        block_table_tensor=common.block_table_tensor[requests.to(device)],
        causal=torch.tensor([segment.causal for segment in segments], dtype=torch.int32, device=device),
        is_prefilling=None,
        rswa_prefix_lens=None,
        _num_computed_tokens_cache=None,
        _token_to_req_indices_cache=None,
    )
