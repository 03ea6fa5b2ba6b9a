"""Split prefix-LM requests into sequences that a causal engine computes.

A prompt ends with `[gMASK] <sop>`. Everything before `<sop>` is its prefix, with bidirectional attention. A request in
prefill becomes two sequences over the same keys and values, which a kernel with one causal flag per sequence computes
exactly:

    rows [0, prefix)    not causal, keys [0, prefix)        (the prefix does not attend to <sop> or later tokens)
    rows [prefix, end)  causal,     keys [0, end)           (`<sop>`, and after a preemption the answer so far)

All keys and values of a pass are stored before its attention runs, so the second sequence can read those of the first.
This file does not import vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SplitPromptError(RuntimeError):
    """The engine scheduled a part of a prefix, which must be prefilled in one pass: a bug in the plugin."""


class AttentionSegment(NamedTuple):
    """Consecutive rows of one request: `queries` rows whose last one attends up to key `keys`."""

    request: int
    queries: int
    keys: int
    causal: bool


def prefix_length(prompt_length: int) -> int:
    """Return the number of prompt tokens before `<sop>`, which is the last one."""
    return max(prompt_length - 1, 0)


def split_requests(queries: Sequence[int], keys: Sequence[int], prompts: Sequence[int]) -> list[AttentionSegment]:
    """Split the requests of a pass into the kernel's sequences, in the order of the rows.

    Args:
        queries: rows of each request in this pass.
        keys: tokens of each request at the end of this pass.
        prompts: prompt tokens of each request.

    Raises:
        SplitPromptError: a prefix is scheduled in parts, or some of it comes from a cache.
    """
    segments = []
    for request, (rows, end, prompt) in enumerate(zip(queries, keys, prompts, strict=True)):
        prefix, computed = prefix_length(prompt), end - rows
        if rows == 0 or computed >= prefix:
            segments.append(AttentionSegment(request, rows, end, True))
        elif computed == 0 and rows > prefix:
            segments += [
                AttentionSegment(request, prefix, prefix, False),
                AttentionSegment(request, rows - prefix, end, True),
            ]
        else:
            raise SplitPromptError(
                f"Tokens {computed} to {end} of a prompt of {prompt} tokens were scheduled alone, but a prefix must be "
                "prefilled in one pass. Turn off prefix caching and chunked prefill."
            )
    return segments


def prefix_of_rows(queries: Iterable[int], prompts: Iterable[int], rows: int) -> Tensor:
    """Return the prefix length of each row's request, [rows]; padding rows after the last request get 0."""
    lengths = [prefix_length(prompt) for prompt in prompts]
    per_row = torch.repeat_interleave(torch.tensor(lengths), torch.tensor(list(queries)))
    return torch.nn.functional.pad(per_row, (0, rows - len(per_row)))


def rotary_positions(positions: Tensor, prefix: Tensor) -> Tensor:
    """Compute both position channels [rows, 2, 1] from positions in the request and prefix lengths, [rows] each.

    The first channel counts up to `[gMASK]`, the last token of the prefix, and stays there. The second is 0 in the
    prefix, then 1, 2, 3.
    """
    position = torch.minimum(positions, (prefix - 1).clamp(min=0))
    block_position = (positions - prefix + 1).clamp(min=0)
    return torch.stack([position, block_position], dim=1)[..., None]
