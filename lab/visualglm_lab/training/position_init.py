"""Initialize weights so that zone embeddings encode their zone.

The queries know their zones, but the last MLP of the Q-Former hides this information, so the language model does not
get it: it learns to find an object and its colour, but "where" stays near chance as soon as there are two objects.
These functions give the information its own channels: through the MLP, the projection, and the values of one head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visualglm.network.glm import GLMAttention
from visualglm.network.qformer import QFormerLayer


@torch.no_grad()
def pass_zones(layer: QFormerLayer, hidden: Tensor, written: Tensor, scale: float = 0.3) -> Tensor:
    """Make the MLP of the last layer add the zone of each query, in directions that are nearly unused.

    `hidden` [P, Z, size] is the input of the MLP, `written` [P, Z, size] the output of the layer. The standard
    deviation of the addition is `scale` times that of the output. Two of the least used units carry each direction,
    since gelu(x) - gelu(-x) = x. Returns what is added to the layer's output [size, Z - 1] for a step of one
    standard deviation.
    """
    mean, reading = telling_zones(hidden)
    count = reading.shape[1]
    up, down = layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h
    units = F.gelu(up(hidden.flatten(0, 1)))
    spare = (units.std(dim=0) * down.weight.norm(dim=0)).argsort()[: 2 * count]
    down.bias.add_(down.weight[:, spare] @ units[:, spare].mean(dim=0))
    length = scale * written.norm(dim=-1).mean() / count**0.5
    added = length * quietest(written.flatten(0, 1), count)
    for of_one_sign, sign in zip(spare.split(count), (1, -1), strict=True):
        up.weight[of_one_sign], up.bias[of_one_sign] = sign * reading.T, -sign * (mean @ reading)
        down.weight[:, of_one_sign] = sign * added
    return added


@torch.no_grad()
def project_zones(projection: nn.Linear, arriving: Tensor, vectors: Tensor, unread: Tensor, scale: float = 0.3) -> None:
    """Make the projection pass the zones on, in directions that the language model's inputs hardly use.

    `arriving` [size, n] is a step of one standard deviation at the input of the projection, `vectors` [M, hidden]
    its previous outputs, `unread` [hidden, m] an orthonormal basis of the subspace that may be written to.
    """
    count = arriving.shape[1]
    room = quietest(vectors, count, unread)
    length = scale * vectors.norm(dim=-1).mean() / count**0.5
    projection.weight += (length * room - projection.weight @ arriving) @ torch.linalg.pinv(arriving)


@torch.no_grad()
def carry_zones(attention: GLMAttention, head: int, vectors: Tensor, scale: float = 3.0) -> None:
    """Make the values of one head carry the zone that it attends to, in directions that it did not use.

    `vectors` [P, Z, hidden] are the outputs of the block's first norm. The head's other directions are kept, except
    for the Z - 1 with the smallest variance.
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
    attention.dense.weight[:, outputs] = torch.cat([left * strengths.sqrt(), scale * free], dim=1)


def telling_zones(vectors: Tensor, ridge: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Find what distinguishes the zones of [P, Z, size]: mean [size], directions [size, Z - 1] of unit deviation."""
    images, zones, size = vectors.shape
    flat = vectors.flatten(0, 1)
    centred = flat - flat.mean(dim=0)
    wanted = torch.eye(zones).to(flat).repeat(images, 1) - 1 / zones
    strength = ridge * len(flat) * centred.var() * torch.eye(size).to(flat)
    found = torch.linalg.solve(centred.T @ centred + strength, centred.T @ wanted)
    found = found @ torch.linalg.svd(centred @ found, full_matrices=False)[2].T[:, : zones - 1]
    return flat.mean(dim=0), found / (centred @ found).std(dim=0)


def quietest(vectors: Tensor, count: int, within: Tensor | None = None) -> Tensor:
    """Return the orthonormal directions [size, count] in which [M, size] varies least, inside the span of `within`."""
    covariance = torch.cov(vectors.T)
    if within is None:
        return torch.linalg.eigh(covariance)[1][:, :count]
    return within @ torch.linalg.eigh(within.T @ covariance @ within)[1][:, :count]


def unnoticed(weight: Tensor) -> Tensor:
    """Return an orthonormal basis [in, in - out] of the null space of `weight` [out, in]."""
    return torch.linalg.svd(weight)[2][len(weight) :].T
