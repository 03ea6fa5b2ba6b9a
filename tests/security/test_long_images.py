"""More mutants, and large honest images at the bound: minutes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from visualglm.errors import ImageError
from visualglm.image_pool import ImagePool

from .test_image_pool import mutants

LARGE = """
import resource, sys
from PIL import Image
from tests.security.image_attacks import encoded, png
from visualglm.image_decoding import decode_image
from visualglm.image_limits import MEMORY_LIMIT
exif = Image.Exif(); exif[274] = 6
make = {
    "jpeg": lambda: encoded(Image.new("RGB", (13300, 13300)), "JPEG"),
    "turned jpeg": lambda: encoded(Image.new("RGB", (11000, 12000)), "JPEG", exif=exif),
    "progressive jpeg": lambda: encoded(Image.new("RGB", (10000, 10000)), "JPEG", progressive=True, subsampling=0),
    "png": lambda: png(13300, 13300, 8, 2, 39900),
    "png with alpha": lambda: png(11000, 12000, 8, 6, 44000),
    "png in 16 bits": lambda: png(12000, 12000, 16, 0, 24000),
    "webp": lambda: encoded(Image.new("RGB", (7000, 7000)), "WEBP"),
    "tiff": lambda: encoded(Image.new("RGB", (10000, 10000)), "TIFF", compression="tiff_deflate"),
    "avif": lambda: encoded(Image.new("RGB", (5000, 5000)), "AVIF"),
    "jpeg2000": lambda: encoded(Image.new("RGB", (5000, 5000)), "JPEG2000"),
}[sys.argv[1]]
if sys.argv[2] == "make":
    open(sys.argv[3], "wb").write(make())
else:
    content = open(sys.argv[3], "rb").read()
    Image.init()
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode_image(content, "it").mode == "RGB"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
    print(grown >> 20, "MiB")
    assert grown < 1.1 * MEMORY_LIMIT
"""


@pytest.mark.parametrize(
    "name",
    ["jpeg", "turned jpeg", "progressive jpeg", "png", "png with alpha", "png in 16 bits", "webp", "tiff", "avif"]
    + ["jpeg2000"],
)
def test_large_honest_images_open_within_the_bound(name: str, tmp_path) -> None:
    for step in ("make", "open"):
        command = [sys.executable, "-c", LARGE, name, step, str(tmp_path / "image")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        print(name, done.stdout)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000"])
def test_many_mutants_are_images_or_sentences(kind: str) -> None:
    pool = ImagePool(1, 60)
    for content in mutants(kind, 5000):
        try:
            assert pool.decode(content, (8, 8)).shape == (8, 8, 3)
        except ImageError as error:
            assert "\n" not in str(error)
    pool.close()
