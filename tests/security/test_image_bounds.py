"""Images that are small as files and huge for a decoder: refused within little memory and time; honest ones are not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from visualglm.errors import ImageError
from visualglm.preprocessing.image_limits import MEMORY_LIMIT, CostlyError, decoder_bytes
from visualglm.preprocessing.images import open_image

from .image_attacks import ATTACKS, SPENT, encoded, jpeg_scans

MEASURE = """
import resource, sys
from tests.security.image_attacks import ATTACKS, SPENT
from visualglm.errors import ImageError
from visualglm.preprocessing.image_decoding import decode_image
contents = {name: make() for name, make in {**ATTACKS, **SPENT}.items()}
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
decode_image(contents["png exif"], "warm-up")
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, content in contents.items():
    try:
        decode_image(content, "it")
        assert name in SPENT, f"{name} was decoded"
    except ImageError as error:
        assert name in ATTACKS, f"{name}: {error}"
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024
assert grown < 300, f"{grown} MB"
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_hostile_files_take_little_memory_and_time() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["webp canvas", "jpeg scans", "tiff tile", "icon"])
def test_the_sentence_says_what_to_do(name: str) -> None:
    with pytest.raises(ImageError, match=r"too costly to decode .*\. Save it as") as raised:
        open_image(ATTACKS[name]())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [(1, 500_000), (500_000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
def test_a_side_without_end(size: tuple[int, int], kind: str) -> None:
    """Few pixels to decode, but the first pass of a resize keeps the new width of every row."""
    with pytest.raises(ImageError, match=r"too large to decode safely .* a side"):
        open_image(encoded(Image.new("1", size), kind))


def test_the_work_of_scans_is_bounded_by_pixels_too() -> None:
    decoder_bytes(jpeg_scans(20))
    with pytest.raises(CostlyError, match="scans"):
        decoder_bytes(jpeg_scans(150))


def test_a_rotation_that_is_too_large_is_an_error_and_not_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[274] = 6
    content = encoded(Image.new("RGB", (64, 32)), "JPEG", exif=exif)
    assert open_image(content).size == (32, 64)
    monkeypatch.setattr("visualglm.preprocessing.image_decoding.MEMORY_LIMIT", 64 * 32 * 6)
    with pytest.raises(ImageError, match="too costly"):
        open_image(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000"])
def test_honest_files_are_far_from_the_bound(kind: str) -> None:
    image = Image.radial_gradient("L").convert("RGB")
    content = encoded(image, kind)
    assert decoder_bytes(content) < MEMORY_LIMIT / 100
    assert open_image(content).size == image.size


def test_a_hundred_megapixels_fit_in_many_scans() -> None:
    """By their header; decoding them takes seconds."""
    jpeg = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG", progressive=True))
    at = jpeg.index(b"\xff\xc2")
    jpeg[at + 5 : at + 9] = (10_000).to_bytes(2, "big") * 2
    assert decoder_bytes(bytes(jpeg)) + 4 * 10_000**2 <= MEMORY_LIMIT


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_strips_of_deep_grey_are_the_whole(mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 60_000, (700, 5))
    deep = values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
    grey = deep.astype(np.float32)
    top = float(grey.max()) if mode == "F" else 65535.0
    whole = np.rint(grey.clip(0, top) * (255 / top)).astype(np.uint8)
    seen = np.asarray(open_image(encoded(Image.fromarray(deep), "TIFF")))
    np.testing.assert_array_equal(seen[..., 0], whole)


def test_nothing_reaches_stderr_but_the_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(encoded(Image.new("RGB", (64, 64)), "TIFF", compression="tiff_lzw"))
    content[8:200] = bytes(192)
    with pytest.raises(ImageError):
        open_image(bytes(content))
    assert capfd.readouterr().err == ""


def test_what_is_spent_is_known() -> None:
    for make in SPENT.values():
        assert open_image(make()).size == (8, 8)
