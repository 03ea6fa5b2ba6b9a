"""Measure whether a map of patches holds: hide the patches it names first, and then patches in random orders.

    images with hidden patches [B, 3, H, W] -- score --> mean log probability of the answer's tokens [B]

The faster the answer becomes unlikely, the more it rests on what was hidden first. A hidden patch has the image's mean
colour. Source: Petsiuk, Das and Saenko 2018 (arXiv 1806.07421), with random orders beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from ..network.visualglm import VisualGLMNetwork
from .attribution import log_probabilities

FRACTIONS = (0.0, 0.25, 1.0)
"""Hidden parts of the image; with `ORDERS` 6 images, each of which costs a pass through encoder and language model."""
THOROUGH_FRACTIONS = tuple(step / 16 for step in range(17))
ORDERS, THOROUGH_ORDERS = 4, 20
"""Random orders of a usual measurement, and of a thorough one."""
BATCH = 8
"""Images in one forward pass."""
SEED = 0

Result = TypeVar("Result")


@dataclass(frozen=True)
class DeletionCurve:
    """Mean log probability per token at each hidden fraction: of the map's order, and of each random order.

    `area` is the mean of the random curves less the map's, averaged over the fractions: positive where the map is
    better than chance. `low` and `high` are its 95 % interval: were the map one more random order, `area` would lie
    beyond 0 by as much as half the interval's width only once in twenty times.
    """

    fractions: tuple[float, ...]
    attended: tuple[float, ...]
    random: tuple[tuple[float, ...], ...]
    area: float
    low: float
    high: float

    @property
    def exceeds_chance(self) -> bool:
        """Whether the map's patches matter more than randomly chosen ones."""
        return self.low > 0


def finish(steps: Generator[None, None, Result]) -> Result:
    """Run a computation that yields after each of its steps; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]


def measure_deletion(
    score: Callable[[Tensor], Tensor],
    pixel_values: Tensor,
    weights: Tensor,
    unhidden: float,
    fractions: Sequence[float] = FRACTIONS,
    orders: int = ORDERS,
) -> Generator[None, None, DeletionCurve]:
    """Measure the deletion curve of a map; yield after each forward pass (`finish` runs them all).

    Args:
        score: the mean log probability [B] of what is explained, for images [B, 3, H, W].
        pixel_values: [1, 3, H, W].
        weights: [N], the map over a square grid of patches, row by row.
        unhidden: the score of the image itself, which the map's pass has computed.
        fractions: hidden parts in ascending order, from 0 to 1.
        orders: number of random orders, at least 2.
    """
    generator = torch.Generator().manual_seed(SEED)
    ranks = [weights.argsort(descending=True, stable=True).argsort()]
    ranks += [torch.randperm(len(weights), generator=generator) for _ in range(orders)]
    everything = torch.ones_like(weights).bool()[None]
    counts = [round(fraction * len(weights)) for fraction in fractions[1:-1]]
    masks = torch.cat([everything, *(torch.stack([rank < count for count in counts]) for rank in ranks)])
    scores: list[float] = []
    for some in masks.split(BATCH):
        scores += score(hide(pixel_values, some)).tolist()
        yield
    hidden, inner = scores[0], [scores[1 + index * len(counts) :][: len(counts)] for index in range(len(ranks))]
    attended, *random = ((unhidden, *values, hidden) for values in inner)
    return DeletionCurve(tuple(fractions), attended, tuple(random), *_gain(fractions, attended, random))


def hide(pixel_values: Tensor, masks: Tensor) -> Tensor:
    """Give the patches of each mask [B, N] the mean colour of the image [1, 3, H, W]: [B, 3, H, W]."""
    side = round(masks.shape[1] ** 0.5)
    size = pixel_values.shape[-1] // side
    hidden = masks.reshape(-1, 1, side, side).repeat_interleave(size, 2).repeat_interleave(size, 3)
    return torch.where(hidden.to(pixel_values.device), pixel_values.mean((2, 3), keepdim=True), pixel_values)


def answer_score(
    network: VisualGLMNetwork, input_ids: Tensor, answer_length: int, tokens: Sequence[int]
) -> Callable[[Tensor], Tensor]:
    """Return the function that scores images: the mean log probability of `tokens`, positions in the answer.

    `input_ids` [1, T] is the prompt with its answer, whose length is `answer_length`.
    """
    ids = input_ids.to(network.device)

    @torch.no_grad()
    def score(images: Tensor) -> Tensor:
        rows = ids.expand(len(images), -1)
        pixels = images.to(network.device)
        output = network(input_ids=rows, pixel_values=pixels, use_cache=False, logits_to_keep=answer_length + 1)
        return log_probabilities(output.logits, rows, answer_length)[:, list(tokens)].mean(1).cpu()

    return score


def _gain(
    fractions: Sequence[float], attended: Sequence[float], random: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """Return the area between the random curves and the map's, with the 95 % prediction interval of a random order."""
    areas = [_area(fractions, values) for values in random]
    gain = statistics.fmean(areas) - _area(fractions, attended)
    margin = _student_quantile(len(areas) - 1) * statistics.stdev(areas) * (1 + 1 / len(areas)) ** 0.5
    return gain, gain - margin, gain + margin


def _area(fractions: Sequence[float], values: Sequence[float]) -> float:
    """Integrate by trapezoids."""
    points = zip(fractions, values, strict=True)
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


def _student_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t from 3 degrees of freedom on, to 1 % (Cornish and Fisher)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
