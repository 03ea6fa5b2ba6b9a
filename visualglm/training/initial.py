"""training/initial: what begins with a purpose instead of as noise: patches whitened, places as waves, words compared.

Raw patches are nearly all mean colour; outlines are faint beside it, and a network that starts from noise finds them
late. After whitening, every direction in which patches differ is equally loud. Likewise a place that starts as faint
noise is hardly used; waves of several lengths make it plain from the first step. And once words and picture vectors are
alike, a head that compares them finds the object that a question names. Knows nothing about training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..glm import GLMAttention


@torch.no_grad()
def whiten(projection: nn.Conv2d, pixel_values: Tensor, loudness: float = 0.5, floor: float = 1e-3) -> None:
    """Sets the kernel [hidden, 3, patch, patch] to the leading principal directions of the patches of `pixel_values`.

    [P, 3, H, W] -> every channel of the embedding has mean 0 and about `loudness` deviation over these patches.
    """
    side = projection.kernel_size[0]
    patches = nn.functional.unfold(pixel_values, side, stride=side).transpose(1, 2).flatten(0, 1).double()
    mean = patches.mean(dim=0)
    centred = patches - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    count = projection.out_channels
    variances, directions = variances.flip(0)[:count], directions.flip(1)[:, :count]
    kernel = loudness * (directions / (variances.clamp(min=0) + floor).sqrt()).T
    turn = torch.linalg.qr(torch.randn(count, count, dtype=torch.double)).Q  # no channel is more important than others
    kernel = turn @ kernel
    projection.weight.copy_(kernel.reshape(projection.weight.shape))
    if projection.bias is not None:
        projection.bias.copy_(-(kernel @ mean))


@torch.no_grad()
def place(positions: nn.Embedding, loudness: float = 0.5) -> None:
    """Adds waves to the table [1 + grid * grid, hidden]: sine and cosine, across and down, a quarter of it each.

    They must be as loud as the patches: fainter ones drown in the blocks that follow, and no query finds its zone.
    Wavelengths run from 3 to 32 patches; row 0, the class token, stays.
    """
    patches, hidden = positions.num_embeddings - 1, positions.embedding_dim
    grid = math.isqrt(patches)
    frequencies = 2 * math.pi / torch.logspace(math.log10(3), math.log10(32), hidden // 4)
    place = torch.arange(patches)
    across, down = ((axis + 0.5)[:, None] * frequencies for axis in (place % grid, place // grid))
    positions.weight[1:] += loudness * torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1)


@torch.no_grad()
def compare(attention: GLMAttention, head: int, words: Tensor, vectors: Tensor, loudness: float = 0.65) -> None:
    """Sets the half of one head that place does not turn (in the prompt) to compare words with picture vectors.

    `words` [N, hidden] and `vectors` [M, hidden], as the block's first norm leaves them. Query and key become the same
    projection, onto the directions in which the words differ, so that a word looks at the vectors that are like it.
    """
    differences = words - words.mean(dim=0)
    half = attention.head_dim // 2
    directions = torch.linalg.svd(differences, full_matrices=False)[2][: min(len(words) // 2, half)]
    weight, bias = attention.query_key_value.weight, attention.query_key_value.bias
    for part, centre in ((0, words.mean(dim=0)), (1, vectors.mean(dim=0))):  # query, key
        first = (3 * head + part) * attention.head_dim + half
        weight[first : first + half] = 0
        bias[first : first + half] = 0
        weight[first : first + len(directions)] = loudness * directions
        bias[first : first + len(directions)] = -loudness * (directions @ centre)
