"""The arithmetic of a bidirectional prefix in an engine that is causal. Knows no vLLM.

A prompt ends with `[gMASK] <sop>`; everything before `<sop>` is its prefix and sees itself in both directions. A
request whose prompt is read is two sequences over the same keys and values, which a kernel with a causal flag for each
sequence computes exactly:

    rows [0, prefix)    not causal, keys [0, prefix)        (the prefix never sees <sop> or what follows)
    rows [prefix, end)  causal,     keys [0, end)           (`<sop>`, and after a preemption the answer so far)

All keys and values of a pass are stored before its attention runs, so the second sequence finds the first one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SplitPromptError(RuntimeError):
    """The engine read a part of a prompt, whose prefix can only be read at once: a mistake in the plugin."""


class AttentionSegment(NamedTuple):
    """A run of a request's rows: `queries` rows that end at key `keys`, causal or not."""

    request: int
    queries: int
    keys: int
    causal: bool


def prefix_length(prompt_length: int) -> int:
    """How many of a prompt's tokens stand before its `<sop>`, which is the last."""
    return max(prompt_length - 1, 0)


def pieces(queries: Sequence[int], keys: Sequence[int], prompts: Sequence[int]) -> list[AttentionSegment]:
    """The sequences that the kernel gets, in the order of the rows.

    For each request of a pass: its rows, its tokens up to their end, its prompt's tokens.

    Raises:
        SplitPromptError: a prefix is read in parts, or some of it was remembered from another request.
    """
    found = []
    for request, (rows, end, prompt) in enumerate(zip(queries, keys, prompts, strict=True)):
        prefix, read = prefix_length(prompt), end - rows
        if rows == 0 or read >= prefix:
            found.append(AttentionSegment(request, rows, end, True))
        elif read == 0 and rows > prefix:
            found += [
                AttentionSegment(request, prefix, prefix, False),
                AttentionSegment(request, rows - prefix, end, True),
            ]
        else:
            raise SplitPromptError(
                f"Rows {read} to {end} of a prompt of {prompt} tokens were to be read alone, but a prefix is read "
                "whole: prefix caching and chunked prefill must be off."
            )
    return found


def prefix_of_rows(queries: Iterable[int], prompts: Iterable[int], rows: int) -> Tensor:
    """The prefix length of each row's request [rows]; rows behind the last request (padding) get 0."""
    lengths = [prefix_length(prompt) for prompt in prompts]
    known = torch.repeat_interleave(torch.tensor(lengths), torch.tensor(list(queries)))
    return torch.nn.functional.pad(known, (0, rows - len(known)))


def rotary_positions(positions: Tensor, prefix: Tensor) -> Tensor:
    """Both channels of each row [rows, 2, 1], from its place in the request and its prefix length, [rows] each.

    The first stands still at `[gMASK]`, the last of the prefix; the second is 0 in the prefix, then 1, 2, 3.
    """
    position = torch.minimum(positions, (prefix - 1).clamp(min=0))
    block_position = (positions - prefix + 1).clamp(min=0)
    return torch.stack([position, block_position], dim=1)[..., None]
