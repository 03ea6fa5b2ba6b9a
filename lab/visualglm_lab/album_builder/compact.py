"""Shrink an album to one file of AVIF images, to carry it to another machine, and back.

    python -m visualglm_lab.album_builder.compact shrink runs/pictures runs/pictures.avif
    python -m visualglm_lab.album_builder.compact expand runs/pictures.avif runs/pictures

The file is a zip of the manifest, the training features and one image a row. Images are compressed with losses, too
small to see at 128 pixels; features are not.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from .write_album import ALBUM, MANIFEST

QUALITY = 50
BESIDE = (MANIFEST, "features.npy", "stem.safetensors")


def shrink(folder: Path, file: Path) -> None:
    """Write an album as one file."""
    pixels = np.load(folder / ALBUM, mmap_mode="r")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        for name in BESIDE:
            if (folder / name).exists():
                packed.write(folder / name, name, zipfile.ZIP_DEFLATED)
        for index in range(len(pixels)):
            image = io.BytesIO()
            Image.fromarray(np.asarray(pixels[index]), "RGBA").save(image, "AVIF", quality=QUALITY)
            packed.writestr(f"{index}.avif", image.getvalue())


def expand(file: Path, folder: Path) -> None:
    """Write the album of such a file as a folder."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(file) as packed:
        names = packed.namelist()
        for name in BESIDE:
            if name in names:
                (folder / name).write_bytes(packed.read(name))
        count = sum(name.endswith(".avif") for name in names)
        album = np.lib.format.open_memmap(folder / ALBUM, mode="w+", dtype=np.uint8, shape=(count, 128, 128, 4))
        for index in range(count):
            with Image.open(io.BytesIO(packed.read(f"{index}.avif"))) as image:
                album[index] = np.asarray(image.convert("RGBA"))
        album.flush()


if __name__ == "__main__":
    {"shrink": shrink, "expand": expand}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
