"""Sample feature vectors around the class prototypes of the stem's classifier.

    mean + residual of a free image + s * covariance (row of the class - mean row), at least 0

s is the smallest factor at which the classifier gives the class a probability drawn between 0.2 and 0.95. So a vector
has the norm and the spread of a real one, and no image of the class is needed. Its label is the classifier's opinion.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from safetensors.torch import load_file, save_file
from torch import Tensor

from visualglm.errors import UsageError

from .imagenet_classes import CLASSES, kind_probabilities

FILE = "stem.safetensors"
FACTORS = torch.linspace(0, 1, 49) ** 2
BELIEFS = (0.2, 0.95)


class PrototypeSampler:
    """Samples vectors from `features` [N, 1280] of free images and a classifier (`classes` [1000, 1280], `bias`)."""

    def __init__(self, features: Tensor, classes: Tensor, bias: Tensor) -> None:
        features = features.float()
        self.mean, self.classes, self.bias = features.mean(0), classes.float(), bias.float()
        self.residuals = features - self.mean
        covariance = self.residuals.T @ self.residuals / len(features)
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
        """Draw `count` vectors [count, 1280] of random classes."""
        chosen = torch.from_numpy(rng.integers(CLASSES, size=count))
        base = self.mean + self.residuals[torch.from_numpy(rng.integers(len(self.residuals), size=count))]
        steps = FACTORS[None, :, None] * self.directions[chosen][:, None]
        tried = (base[:, None] + steps).clamp(min=0)
        belief = self.probabilities(tried)[torch.arange(count), :, chosen]
        wanted = torch.from_numpy(rng.uniform(*BELIEFS, size=count)).float()
        reached = belief >= wanted[:, None]
        first = torch.where(reached.any(-1), reached.int().argmax(-1), belief.argmax(-1))
        return tried[torch.arange(count), first]

    def probabilities(self, vectors: Tensor) -> Tensor:
        """Return the classifier's probabilities: [..., 1280] -> [..., 1000]."""
        return (vectors @ self.classes.T + self.bias).softmax(-1)

    def opinion(self, vectors: Tensor) -> Tensor:
        """Return the probabilities of `named_kinds`: [B, 1280] -> [B, kinds]; their sum may be below 1."""
        return kind_probabilities(self.probabilities(vectors))


def write_features(folder: Path, features: Tensor, classes: Tensor, bias: Tensor) -> None:
    """Write what `PrototypeSampler.load` reads, in float16."""
    tensors = {"features": features, "classes": classes, "bias": bias}
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, folder / FILE)


def smooth_noise(count: int, side: int, rng: Generator) -> Tensor:
    """Draw images without objects, [count, 3, side, side]: soft colours, normalised like `pixel_values`."""
    coarse = torch.from_numpy(rng.standard_normal((count, 3, 5, 5)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
