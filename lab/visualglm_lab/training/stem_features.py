"""Compute the stem's features of an album, once, before training.

Writes two files beside the album: `features.npy`, the whitened features that `teacher_loss` predicts, and
`stem.safetensors`, the pooled features of training images with the classifier, for `prototypes`. Run:
`python -m visualglm_lab.training.stem_features --album runs/pictures`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visualglm.preprocessing.images import VisualGLMImageProcessor

from ..album_builder.teacher_features import whiten_features
from ..evaluation.album_images import AlbumImages
from .class_prototypes import write_features
from .stem_weights import StemWeights, fetch_stem

BATCH, SIDE = 64, 144
MOST_KEPT = 3000
"""Training images whose pooled features are kept, evenly spaced: enough for their mean and covariance."""


@torch.no_grad()
def pooled_features(album: AlbumImages, stem: StemWeights, side: int = SIDE) -> Tensor:
    """Compute [N, 1280] pooled features of all images of an album, on white."""
    network, process = stem.network(), VisualGLMImageProcessor(size={"height": side, "width": side})
    parts = []
    for start in range(0, len(album.rows), BATCH):
        images = list(album.images(album.rows[start : start + BATCH]))
        parts.append(network(process(images=images, return_tensors="pt")["pixel_values"])[1])
    return torch.cat(parts)


def write_album_features(folder: Path, stem: StemWeights) -> None:
    """Write both files; rows of `features.npy` are those of `album.npy`."""
    album = AlbumImages(folder)
    found = pooled_features(album, stem)
    train = np.array([row.split == "train" for row in album.rows])
    rows = np.zeros((len(album.pixels), found.shape[1]), dtype=np.float32)
    rows[[row.index for row in album.rows]] = found.numpy()
    trained = np.zeros(len(rows), dtype=bool)
    trained[[row.index for row in album.rows if row.split == "train"]] = True
    np.save(folder / "features.npy", whiten_features(rows, trained))
    kept = torch.from_numpy(np.flatnonzero(train))
    kept = kept[torch.linspace(0, len(kept) - 1, min(len(kept), MOST_KEPT)).long()]
    write_features(folder, found[kept], stem.classes, stem.bias)


def main() -> None:
    """Fetch the stem's weights and write the files."""
    parser = argparse.ArgumentParser(prog="python -m visualglm_lab.training.stem_features", description=__doc__)
    parser.add_argument("--album", type=Path, required=True)
    parser.add_argument("--downloads", type=Path, default=Path("runs/downloads"))
    options = parser.parse_args()
    write_album_features(options.album, fetch_stem(options.downloads))


if __name__ == "__main__":
    main()
