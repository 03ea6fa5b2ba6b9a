"""Compute the stem's features of an album, once, before training.

Writes two files beside the album: `features.npy`, the whitened features that `teacher_loss` predicts, and
`stem.safetensors`, the pooled features of training images and of crops of free photographs, with the classifier, for
`prototypes`. Run:
`python -m visualglm_lab.training.stem_features --album runs/pictures`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from visualglm.network.stem import ConvolutionalStem
from visualglm.preprocessing.images import VisualGLMImageProcessor, open_image

from ..album_builder.packages import open_package
from ..album_builder.teacher_features import whiten_features
from ..evaluation.album_images import AlbumImages
from .class_prototypes import write_features
from .stem_weights import StemWeights, fetch_stem

BATCH, SIDE = 64, 144
PHOTOGRAPHS = (
    ("deb:endless-sky-data=0.9.8-1.2", "usr/share/games/endless-sky/images/land/*.jpg"),
    ("deb:kphotoalbum=5.9.1-1", "usr/share/kphotoalbum/demo/*.jpg"),
    ("deb:lomiri-wallpapers-16.04=20.04.0-2", "usr/share/backgrounds/*.jpg"),
    ("deb:mate-backgrounds=1.26.0-1", "usr/share/backgrounds/mate/nature/*.jpg"),
    ("deb:scratch=1.4.0.6~dfsg1-6.1", "usr/share/scratch/Media/Backgrounds/*/*.jpg"),
)
"""Packages of free photographs, and which of their files: places, textures, persons, few things that have a name.

They are in the public domain, or under CC BY, CC BY-SA or GPL-2+, as each package's copyright file says. The photograph
test holds none of them.
"""
CROPS, SMALLEST = 5, 0.35
"""Square crops of each photograph, besides the whole, and their least side as a fraction of its shorter one."""
MOST_KEPT = 3000
"""Training images whose pooled features are kept, evenly spaced: enough for their mean and covariance."""


def pooled_features(images: Sequence[Image.Image], stem: StemWeights, side: int = SIDE) -> Tensor:
    """Compute [N, 1280] pooled features of images."""
    return pooled_by(stem.network(), images, side)


@torch.no_grad()
def pooled_by(network: ConvolutionalStem, images: Sequence[Image.Image], side: int) -> Tensor:
    """Compute [N, 1280] pooled features of images by a network in float32."""
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return torch.cat([network(pixel_values(part, side))[1] for part in parts])


def pixel_values(images: Sequence[Image.Image], side: int = SIDE) -> Tensor:
    """Return [N, 3, side, side], as the model sees images."""
    process = VisualGLMImageProcessor(size={"height": side, "width": side})
    pixels: Tensor = process(images=list(images), return_tensors="pt")["pixel_values"]
    return pixels


def crops(photograph: Image.Image, rng: Generator) -> Iterator[Image.Image]:
    """Return a photograph, and random squares cut out of it."""
    yield photograph
    for side in rng.uniform(SMALLEST, 1, size=CROPS) * min(photograph.size):
        left, top = (float(rng.uniform(0, size - side)) for size in photograph.size)
        yield photograph.crop((round(left), round(top), round(left + side), round(top + side)))


def write_album_features(folder: Path, stem: StemWeights, photographs: Sequence[Path] = ()) -> None:
    """Write both files; rows of `features.npy` are those of `album.npy`."""
    album, rng = AlbumImages(folder), np.random.default_rng(0)
    found = pooled_features(list(album.images(album.rows)), stem)
    shown = [crop for file in photographs for crop in crops(open_image(file), rng)]
    train = np.array([row.split == "train" for row in album.rows])
    rows = np.zeros((len(album.pixels), found.shape[1]), dtype=np.float32)
    rows[[row.index for row in album.rows]] = found.numpy()
    trained = np.zeros(len(rows), dtype=bool)
    trained[[row.index for row in album.rows if row.split == "train"]] = True
    np.save(folder / "features.npy", whiten_features(rows, trained))
    kept = torch.from_numpy(np.flatnonzero(train))
    kept = kept[torch.linspace(0, len(kept) - 1, min(len(kept), MOST_KEPT)).long()]
    photographed = (pooled_features(shown, stem), pixel_values(shown)) if shown else ()
    write_features(folder, found[kept], stem.classes, stem.bias, *photographed)


def main() -> None:
    """Fetch the stem's weights and write the files."""
    parser = argparse.ArgumentParser(prog="python -m visualglm_lab.training.stem_features", description=__doc__)
    parser.add_argument("--album", type=Path, required=True)
    parser.add_argument("--downloads", type=Path, default=Path("runs/downloads"))
    options = parser.parse_args()
    files = [
        file
        for address, pattern in PHOTOGRAPHS
        for file in sorted(open_package(address, options.downloads).folder.glob(pattern))
    ]
    write_album_features(options.album, fetch_stem(options.downloads), files)


if __name__ == "__main__":
    main()
