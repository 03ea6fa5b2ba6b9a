"""Sample feature vectors around the class prototypes of the stem's classifier.

    t * (vector of a free image + s * covariance (row of the class - mean row)), at least 0

t keeps the free image's length. s is the smallest factor at which the classifier gives the class a probability drawn
from one of two ranges, because it is nearly certain of about half of the photographs. So no image of the class is
needed. Other vectors are those of crops of free photographs. The label is the classifier's opinion.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import Generator
from safetensors.torch import load_file, save_file
from torch import Tensor

from visualglm.errors import UsageError
from visualglm.evaluation.scenes.concepts import kinds
from visualglm.evaluation.scenes.kinds import Kind
from visualglm.network.stem import CLASSES
from visualglm.network.vision import ConceptHead

from .imagenet_classes import class_kinds, kind_probabilities

FILE = "stem.safetensors"
FACTORS = torch.linspace(0, 1, 49) ** 2
CERTAIN, BELIEFS = 0.45, ((0.2, 0.9), (0.9, 0.999))
"""Fraction of sampled vectors that the classifier is certain of; the range of its probability, otherwise and then."""
BLURRED, UNCLEAR = 0.6, 0.15
"""Fraction of sampled vectors of which only the classifier's opinion stays, and of those that show nothing clear."""
PHOTOGRAPHED, NOISE = 0.35, 0.15
"""Fractions of sampled vectors that are seen beside a crop of a free photograph, or noise, instead of a scene."""


class PrototypeSampler:
    """Samples vectors from `features` [N, 1280] of free images and a classifier (`classes` [1000, 1280], `bias`).

    `photographs` [M, 1280] are features of crops of free photographs, `pixels` [M, 3, S, S] their `pixel_values`.
    `concept_head`, which a trainer sets, is the model's own.
    """

    concept_head: ConceptHead | None = None

    def __init__(
        self,
        features: Tensor,
        classes: Tensor,
        bias: Tensor,
        photographs: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> None:
        self.photographs = None if photographs is None else photographs.float()
        self.pixels = pixels
        self.features, self.classes, self.bias = features.float(), classes.float(), bias.float()
        covariance = self.features.T.cov(correction=0)
        self.directions = (self.classes - self.classes.mean(0)) @ covariance
        # the longest step raises the class's own logit by 60, enough to be believed whatever the residual says
        own = (self.directions * self.classes).sum(-1, keepdim=True)
        self.directions *= 60 / own

    @classmethod
    def load(cls, folder: str | Path) -> PrototypeSampler:
        """Read the file that `stem_features` wrote beside an album.

        Raises:
            UsageError: there is none.
        """
        file = Path(folder) / FILE
        if not file.exists():
            raise UsageError(f"{file} is missing. Run python -m visualglm_lab.training.stem_features --album {folder}.")
        return cls(**load_file(file))

    def sample(self, count: int, rng: Generator) -> Tensor:
        """Draw `count` vectors [count, 1280] of random classes and photographs.

        A kind of n classes is drawn sqrt(n) times as often as one of a single class: 118 breeds would make most things
        dogs.
        """
        chosen = torch.from_numpy(rng.choice(CLASSES, size=count, p=_class_shares()))
        base = self._bases(count, rng)[:, None]
        moved = (base + FACTORS[None, :, None] * self.directions[chosen][:, None]).clamp(min=0)
        tried = moved * (base.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True))
        belief = self.probabilities(tried)[torch.arange(count), :, chosen]
        low, high = np.array(BELIEFS)[(rng.random(count) < CERTAIN).astype(int)].T
        wanted = torch.from_numpy(rng.uniform(low, high)).float()
        reached = belief >= wanted[:, None]
        first = torch.where(reached.any(-1), reached.int().argmax(-1), belief.argmax(-1))
        return tried[torch.arange(count), first]

    def _bases(self, count: int, rng: Generator) -> Tensor:
        """Draw vectors [count, 1280] of free images, half of them of photographs if there are any."""
        bases = self.features[torch.from_numpy(rng.integers(len(self.features), size=count))]
        if self.photographs is not None:
            other = self.photographs[torch.from_numpy(rng.integers(len(self.photographs), size=count))]
            bases = torch.where(torch.from_numpy(rng.random((count, 1)) < 0.5), bases, other)
        return bases

    def unclear(self, vectors: Tensor, rng: Generator) -> Tensor:
        """Replace a fraction of vectors [B, 1280] by mixtures of free images, of which the classifier knows little."""
        chosen = torch.from_numpy(rng.random(len(vectors)) < UNCLEAR)
        vectors = vectors.clone()
        vectors[chosen] = self._mixtures(int(chosen.sum()), rng)
        return vectors

    def _mixtures(self, count: int, rng: Generator, least: int = 2) -> Tensor:
        """Mix `least` to five free images' vectors each, at their mean length: [count, 1280]."""
        mixtures = torch.empty(count, self.features.shape[1])
        for index in range(count):
            chosen = torch.from_numpy(rng.integers(len(self.features), size=rng.integers(least, 6)))
            mean = torch.from_numpy(rng.dirichlet(np.ones(len(chosen)))).float() @ self.features[chosen]
            mixtures[index] = mean * (self.features[chosen].norm(dim=-1).mean() / mean.norm())
        return mixtures

    def images(self, scenes: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Choose what is seen beside sampled vectors [count, 3, S, S]: a scene, a crop of a photograph, or noise.

        All are kinds of images that real vectors come with, too, so that only the vector tells what to answer. Also
        returns which are photographs, [count].
        """
        images, photographed = scenes.clone(), torch.zeros(len(scenes), dtype=torch.bool)
        for index, draw in enumerate(rng.random(len(scenes))):
            if draw < NOISE:
                images[index] = coloured_noise(scenes.shape[-1], rng)
            elif draw < NOISE + PHOTOGRAPHED and self.pixels is not None:
                images[index] = self.pixels[rng.integers(len(self.pixels))].float()
                photographed[index] = True
        return images, photographed

    def crops(self, count: int, rng: Generator) -> tuple[Tensor, Tensor] | None:
        """Draw crops of photographs with their own vectors, [count, 3, S, S] and [count, 1280]."""
        if self.photographs is None or self.pixels is None:
            return None
        chosen = torch.from_numpy(rng.integers(len(self.pixels), size=count))
        return self.pixels[chosen].float(), self.photographs[chosen]

    def blurred(self, vectors: Tensor, rng: Generator, photographed: Tensor) -> Tensor:
        """Replace a fraction of vectors [B, 1280] by others that are unlike any free image.

        They are means of several free images, or those of crops of photographs. A photograph's pooled features say
        little to a layer that learned names from drawings, or what is wrong: beside a photograph (`photographed` [B])
        the vector may be that of a single free image. So then the classifier alone can tell.
        """
        blurred = vectors.clone()
        for index in np.flatnonzero(rng.random(len(vectors)) < BLURRED):
            if self.photographs is not None and rng.random() < 0.4:
                blurred[index] = self.photographs[rng.integers(len(self.photographs))]
            else:
                blurred[index] = self._mixtures(1, rng, least=1 if photographed[index] else 2)[0]
        return blurred

    def logits(self, vectors: Tensor) -> Tensor:
        """Return the classifier's logits: [..., 1280] -> [..., 1000]."""
        return vectors @ self.classes.T + self.bias

    def probabilities(self, vectors: Tensor) -> Tensor:
        """Return the classifier's probabilities: [..., 1280] -> [..., 1000]."""
        return self.logits(vectors).softmax(-1)

    @torch.no_grad()
    def guesses(self, vectors: Tensor, least: float) -> list[Kind | None]:
        """Return the kind of scenes that `concept_head` gives each vector [B, 1280], if it is at least that likely."""
        if self.concept_head is None:
            return [None] * len(vectors)
        chances = self.concept_head.probabilities(vectors)[:, :-1]
        return [kinds()[int(row.argmax())] if row.max() >= least else None for row in chances]

    def opinion(self, vectors: Tensor) -> Tensor:
        """Return the probabilities of `named_kinds`: [B, 1280] -> [B, kinds]; their sum may be below 1."""
        return kind_probabilities(self.probabilities(vectors))


@lru_cache(maxsize=1)
def _class_shares() -> npt.NDArray[np.float64]:
    kinds = class_kinds()
    sizes = Counter(kinds)
    shares = np.array([1.0 if kind is None else sizes[kind] ** -0.5 for kind in kinds])
    return shares / shares.sum()


def write_features(
    folder: Path,
    features: Tensor,
    classes: Tensor,
    bias: Tensor,
    photographs: Tensor | None = None,
    pixels: Tensor | None = None,
) -> None:
    """Write what `PrototypeSampler.load` reads, in float16."""
    tensors = {"features": features, "classes": classes, "bias": bias}
    if photographs is not None and pixels is not None:
        tensors |= {"photographs": photographs, "pixels": pixels}
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, folder / FILE)


def coloured_noise(side: int, rng: Generator) -> Tensor:
    """Draw an image without objects, [3, side, side], normalised like `pixel_values`: noise at all scales."""
    image = torch.zeros(1, 3, side, side)
    for cells in (2, 4, 9, 18, 36, 72):
        coarse = torch.from_numpy(rng.standard_normal((1, 3, cells, cells)).astype(np.float32))
        coarse *= 2 / cells**0.5
        image += torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    return image[0]
