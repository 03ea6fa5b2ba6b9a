"""Cluster near-duplicate images.

Two images are near-duplicates if their perceptual hashes (signs of 256 cosine-transform coefficients, computed on
grey) differ in few bits, or if they are known to be the same drawing. Clusters are connected components of such
pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

GREY = (128, 128, 128, 255)
HASH_SIDE = 16
BLOCK = 1024


def perceptual_hash(pixels: np.ndarray) -> np.ndarray:
    """Hash an image: uint8 [H, W, 4] -> bool [256]."""
    import imagehash

    image = Image.fromarray(pixels)
    on_grey = Image.alpha_composite(Image.new("RGBA", image.size, GREY), image)
    return np.asarray(imagehash.phash(on_grey.convert("L"), hash_size=HASH_SIDE).hash).reshape(-1)


def clusters(hashes: np.ndarray, distance: int, drawings: Sequence[str]) -> np.ndarray:
    """Assign a cluster index to each image, in the order of first occurrence: bool [N, 256] -> int [N].

    Images with the same name in `drawings` (unless it is empty) are near-duplicates, too.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first, second = np.concatenate([close_pairs(hashes, distance), _same(drawings)], axis=1)
    size = len(hashes)
    graph = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    _, where, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(where))[inverse]


def close_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Find all pairs i < j that differ in at most `distance` bits: int [2, pairs]."""
    signs = np.where(hashes, 1, -1).astype(np.float32)
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for start in range(0, len(signs), BLOCK):
        differing = (signs.shape[1] - signs[start : start + BLOCK] @ signs.T) / 2
        rows, columns = np.nonzero(differing <= distance)
        later = columns > rows + start
        pairs.append(np.stack([rows[later] + start, columns[later]]))
    return np.concatenate(pairs, axis=1)


def _same(drawings: Sequence[str]) -> np.ndarray:
    """Pair every image of a drawing with the drawing's first image: int [2, pairs]."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(name, index), index) for index, name in enumerate(drawings) if name]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2).T
