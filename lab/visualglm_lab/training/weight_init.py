"""Initialize patches, positions and attention heads with structure.

Raw patches are nearly all mean colour, so a network with random weights learns outlines late. After whitening, every
direction in which patches differ has the same standard deviation. Random positions with small values are hardly
used; sinusoids of several wavelengths work from the first step. Once word and image embeddings are aligned, a head
that compares them finds the object that a question names.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from visualglm.network.glm import GLMAttention

FAR_WAVES = (2, 3, 4)
"""Channels of the rotary half whose waves are 20, 35 and 63 tokens long (heads of 64 channels)."""


@torch.no_grad()
def whiten(projection: nn.Conv2d, pixel_values: Tensor, std: float = 0.5, floor: float = 1e-3) -> None:
    """Set the kernel [hidden, 3, patch, patch] to the leading principal directions of the patches of `pixel_values`.

    [P, 3, H, W] -> every channel of the embedding has mean 0 and standard deviation about `std` over these patches.
    """
    side = projection.kernel_size[0]
    patches = nn.functional.unfold(pixel_values, side, stride=side).transpose(1, 2).flatten(0, 1).double()
    mean = patches.mean(dim=0)
    centred = patches - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    count = projection.out_channels
    variances, directions = variances.flip(0)[:count], directions.flip(1)[:, :count]
    kernel = std * (directions / (variances.clamp(min=0) + floor).sqrt()).T
    turn = torch.linalg.qr(torch.randn(count, count, dtype=torch.double)).Q  # no channel is more important than others
    kernel = turn @ kernel
    projection.weight.copy_(kernel.reshape(projection.weight.shape))
    if projection.bias is not None:
        projection.bias.copy_(-(kernel @ mean))


@torch.no_grad()
def place(positions: nn.Embedding, std: float = 0.5) -> None:
    """Add sinusoids to the table [1 + grid * grid, hidden]: sine and cosine, horizontal and vertical, a quarter each.

    They need the same standard deviation as the patches: with smaller ones, later blocks lose them and no query
    finds its zone. Wavelengths are from 3 to 32 patches; row 0, the class token, is unchanged.
    """
    patches, hidden = positions.num_embeddings - 1, positions.embedding_dim
    grid = math.isqrt(patches)
    frequencies = 2 * math.pi / torch.logspace(math.log10(3), math.log10(32), hidden // 4)
    place = torch.arange(patches)
    across, down = ((axis + 0.5)[:, None] * frequencies for axis in (place % grid, place // grid))
    positions.weight[1:] += std * torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1)


@torch.no_grad()
def compare(
    attention: GLMAttention,
    head: int,
    words: Tensor,
    vectors: Tensor,
    others: Tensor,
    scale: float = 1.0,
    shown: float = 4.0,
    far: float = 1.5,
) -> None:
    """Set queries and keys of one head so that a word attends to similar image embeddings before it.

    `words` [N, hidden], `vectors` [M, hidden] of occupied zones and `others` [K, hidden] of empty ones are outputs
    of the block's first norm. The half of the head that position does not rotate in the prompt does the comparison:
    query and key are the same projection, onto the directions in which the words differ, and one channel (`shown`,
    in logits) prefers `vectors` to `others`. But a word is most similar to itself. So the half that encodes distance
    prefers distant keys (`far`, in logits of each wave); if the image shows nothing similar, the word still attends
    to itself.
    """
    half, dim = attention.head_dim // 2, attention.head_dim
    directions = torch.linalg.svd(words - words.mean(dim=0), full_matrices=False)[2][: min(len(words) // 2, half - 1)]
    weight, bias = attention.query_key_value.weight, attention.query_key_value.bias
    query, key = ((3 * head + part) * dim for part in (0, 1))
    for first, centre in ((query, words.mean(dim=0)), (key, vectors.mean(dim=0))):
        weight[first : first + dim], bias[first : first + dim] = 0, 0
        compared = slice(first + half, first + half + len(directions))
        weight[compared], bias[compared] = scale * directions, -scale * (directions @ centre)
    strength = math.sqrt(shown * math.sqrt(dim))
    direction, offset = _told_apart(vectors, others, words)
    bias[query + dim - 1] = strength
    weight[key + dim - 1], bias[key + dim - 1] = strength * direction, strength * offset
    waves = torch.tensor(FAR_WAVES)
    bias[query + waves], bias[key + waves] = -math.sqrt(far * math.sqrt(dim)), math.sqrt(far * math.sqrt(dim))


def _told_apart(vectors: Tensor, others: Tensor, words: Tensor) -> tuple[Tensor, float]:
    """Fit the linear function closest to 1 on `vectors`, -1 on `others` and 0 on `words`: weights and offset."""
    groups = ((vectors, 1.0, 2.0), (others, -1.0, 1.0), (words, 0.0, 0.5))
    seen = torch.cat([group for group, _, _ in groups]).double()
    seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
    wanted = torch.cat([seen.new_full((len(group),), value) for group, value, _ in groups])
    counts = torch.cat([seen.new_full((len(group),), share / len(group)) for group, _, share in groups])
    weighed = (seen * counts[:, None]).T
    ridge = 1e-2 * torch.eye(seen.shape[1], dtype=seen.dtype, device=seen.device)
    found = torch.linalg.solve(weighed @ seen + ridge, weighed @ wanted)
    return found[:-1].to(vectors.dtype), float(found[-1])
