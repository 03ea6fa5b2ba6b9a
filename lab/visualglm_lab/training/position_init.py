"""Every zone's vector says which zone it is, and a head that finds a named object carries that on.

The queries know their zones, but what the Q-Former writes about a zone drowns that in its last MLP, and nothing else
tells the language model: an object is found and its colour read, yet "where" stays near chance as soon as there are
two. Here the knowledge gets channels of its own: through the MLP, through the projection, through one head's values.
Knows nothing about training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visualglm.network.glm import GLMAttention
from visualglm.network.qformer import QFormerLayer


@torch.no_grad()
def pass_zones(layer: QFormerLayer, hidden: Tensor, written: Tensor, loudness: float = 0.3) -> Tensor:
    """The MLP of the last layer adds which zone a query stands for, in directions that are nearly unused.

    `hidden` [P, Z, size] is what the MLP reads, `written` [P, Z, size] what the layer writes; `loudness` is relative to
    that. Two of its least used units carry each direction, since gelu(x) - gelu(-x) = x. Returns what is added to the
    layer's output [size, Z - 1] for a step of one deviation.
    """
    mean, reading = telling_zones(hidden)
    count = reading.shape[1]
    up, down = layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h
    units = F.gelu(up(hidden.flatten(0, 1)))
    spare = (units.std(dim=0) * down.weight.norm(dim=0)).argsort()[: 2 * count]
    down.bias.add_(down.weight[:, spare] @ units[:, spare].mean(dim=0))
    volume = loudness * written.norm(dim=-1).mean() / count**0.5
    added = volume * quietest(written.flatten(0, 1), count)
    for of_one_sign, sign in zip(spare.split(count), (1, -1), strict=True):
        up.weight[of_one_sign], up.bias[of_one_sign] = sign * reading.T, -sign * (mean @ reading)
        down.weight[:, of_one_sign] = sign * added
    return added


@torch.no_grad()
def project_zones(
    projection: nn.Linear, arriving: Tensor, vectors: Tensor, unread: Tensor, loudness: float = 0.3
) -> None:
    """The projection hands the zones on in directions in which the language model's vectors have room.

    `arriving` [size, n] is how a step of one deviation arrives at the projection, `vectors` [M, hidden] what it wrote
    until now, `unread` [hidden, m] an orthonormal basis of what those who read the vectors must not notice.
    """
    count = arriving.shape[1]
    room = quietest(vectors, count, unread)
    volume = loudness * vectors.norm(dim=-1).mean() / count**0.5
    projection.weight += (volume * room - projection.weight @ arriving) @ torch.linalg.pinv(arriving)


@torch.no_grad()
def carry_zones(attention: GLMAttention, head: int, vectors: Tensor, loudness: float = 3.0) -> None:
    """The values of one head carry on which zone it looks at, in directions that it did not write to.

    `vectors` [P, Z, hidden] as the block's first norm leaves them. What the head carried stays, but for the Z - 1
    faintest of its directions.
    """
    mean, reading = telling_zones(vectors)
    dim, count = attention.head_dim, reading.shape[1]
    values, outputs = slice((3 * head + 2) * dim, (3 * head + 3) * dim), slice(head * dim, (head + 1) * dim)
    weight, bias = attention.query_key_value.weight[values], attention.query_key_value.bias[values]
    written = attention.dense.weight[:, outputs]
    attention.dense.bias.add_(written @ bias)
    left, strengths, right = torch.linalg.svd(written @ weight, full_matrices=False)
    left, strengths, right = (part[..., : dim - count] for part in (left, strengths, right.T))
    free = torch.linalg.qr(torch.cat([left, torch.randn_like(left[:, :count])], dim=1)).Q[:, -count:]
    weight.copy_(torch.cat([(right * strengths.sqrt()).T, reading.T]))
    bias.copy_(torch.cat([bias.new_zeros(dim - count), -(mean @ reading)]))
    attention.dense.weight[:, outputs] = torch.cat([left * strengths.sqrt(), loudness * free], dim=1)


def telling_zones(vectors: Tensor, ridge: float = 1e-2) -> tuple[Tensor, Tensor]:
    """What tells the zones of [P, Z, size] apart: the mean [size] and directions [size, Z - 1] of deviation one."""
    images, zones, size = vectors.shape
    flat = vectors.flatten(0, 1)
    centred = flat - flat.mean(dim=0)
    wanted = torch.eye(zones).to(flat).repeat(images, 1) - 1 / zones
    strength = ridge * len(flat) * centred.var() * torch.eye(size).to(flat)
    found = torch.linalg.solve(centred.T @ centred + strength, centred.T @ wanted)
    found = found @ torch.linalg.svd(centred @ found, full_matrices=False)[2].T[:, : zones - 1]
    return flat.mean(dim=0), found / (centred @ found).std(dim=0)


def quietest(vectors: Tensor, count: int, within: Tensor | None = None) -> Tensor:
    """The orthonormal directions [size, count] in which [M, size] varies least, of those that `within` spans."""
    covariance = torch.cov(vectors.T)
    if within is None:
        return torch.linalg.eigh(covariance)[1][:, :count]
    return within @ torch.linalg.eigh(within.T @ covariance @ within)[1][:, :count]


def unnoticed(weight: Tensor) -> Tensor:
    """An orthonormal basis [in, in - out] of the inputs that the rows of `weight` [out, in] do not notice."""
    return torch.linalg.svd(weight)[2][len(weight) :].T
