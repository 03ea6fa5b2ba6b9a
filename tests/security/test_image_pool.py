"""Decoding in processes of its own: equal bit for bit, limited in memory and time, and ended when nobody waits."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import visualglm
from visualglm.errors import ImageError
from visualglm.preprocessing.image_pool import EndedError, Ending, ImagePool
from visualglm.preprocessing.images import VisualGLMImageProcessor, open_image

from .conftest import HANG
from .image_attacks import encoded

IMAGES = sorted((Path(__file__).parents[1] / "reference" / "images").glob("*.png"))
SIZE = (224, 224)
GREEDY = (
    "from visualglm.preprocessing import image_worker as worker; "
    "worker.decode_image = lambda *a: bytearray(3 << 30); worker.main()"
)
BUSY = """
import visualglm.preprocessing.image_worker as worker
def decode_image(*a):
    while True:
        pass
worker.decode_image = decode_image
worker.main()
"""
CRASH = (
    "from visualglm.preprocessing import image_worker as worker; "
    "import os; worker.decode_image = lambda *a: os.abort(); worker.main()"
)


@pytest.fixture(scope="module")
def pool() -> Iterator[ImagePool]:
    pool = ImagePool(1, 60)
    yield pool
    pool.close()


def same(pool: ImagePool, content: bytes, size: tuple[int, int], upstream: bool) -> None:
    """Return the pool's pixels, and the processor's values of them, are those of the image opened here."""
    here = open_image(content, upstream=upstream)
    there = pool.decode(content, size, upstream)
    np.testing.assert_array_equal(there, np.asarray(here.resize(size[::-1], Image.Resampling.BICUBIC)))
    processor = VisualGLMImageProcessor(size={"height": size[0], "width": size[1]})
    np.testing.assert_array_equal(processor(there)["pixel_values"][0], processor(here)["pixel_values"][0])


@pytest.mark.parametrize("upstream", [False, True])
def test_pixels_are_equal_for_every_format_and_shape(pool: ImagePool, upstream: bool) -> None:
    draw = np.random.default_rng(0)
    for file in IMAGES:
        same(pool, file.read_bytes(), (56, 56), upstream)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000"):
        for mode in ("RGB", "L", "RGBA") if kind in ("PNG", "WEBP", "TIFF") else ("RGB",):
            height, width = (int(side) for side in draw.integers(1, 500, 2))
            image = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
            same(pool, encoded(image, kind), SIZE, upstream)
    exif = Image.Exif()
    exif[274] = 6
    turned = Image.fromarray(draw.integers(0, 256, (50, 90, 3), dtype=np.uint8))
    same(pool, encoded(turned, "JPEG", exif=exif), SIZE, upstream)
    same(pool, encoded(Image.new("RGB", (224, 224), "red"), "PNG"), SIZE, upstream)


def test_a_broken_image_is_the_same_sentence(pool: ImagePool) -> None:
    for content in (b"", b"hello", IMAGES[0].read_bytes()[:200]):
        with pytest.raises(ImageError) as here:
            open_image(content)
        with pytest.raises(ImageError) as there:
            pool.decode(content, SIZE)
        assert str(there.value) == str(here.value)


def test_the_child_is_light() -> None:
    heavy = "{'torch', 'transformers', 'uvicorn'}"
    program = f"import sys, visualglm.preprocessing.image_worker; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("program", "seconds", "says"),
    [(HANG, 1.0, "more than 1 s"), (CRASH, 60.0, "ended its decoder"), (BUSY, 1.0, "more than 1 s|ended its decoder")],
)
def test_a_child_that_fails_is_replaced(child: list[str], program: str, seconds: float, says: str) -> None:
    pool = ImagePool(1, seconds)
    child[0] = program
    with pytest.raises(ImageError, match=says):
        pool.decode(b"x", SIZE)
    child.clear()
    pool.seconds = 60.0
    assert pool.decode(IMAGES[0].read_bytes(), SIZE).shape == (*SIZE, 3)
    pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_memory_is_limited_whatever_a_header_says(child: list[str]) -> None:
    pool = ImagePool(1, 60.0)
    child[0] = GREEDY
    with pytest.raises(ImageError, match="ended its decoder"):
        pool.decode(b"x", SIZE)
    pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_CPU")
def test_cpu_is_limited_where_nobody_is_left_to_kill() -> None:
    """As after the parent's SIGKILL: a child alone, with the least time there is."""
    from visualglm.preprocessing.image_worker import REQUEST

    request = REQUEST.pack(1, *SIZE, 0.0, False) + b"x"
    done = subprocess.run([sys.executable, "-c", BUSY], input=request, capture_output=True, timeout=120)
    assert done.returncode < 0


@pytest.mark.parametrize("how", ["ending", "close", "finish_within"])
def test_what_runs_is_ended_from_outside(child: list[str], how: str) -> None:
    pool, ending = ImagePool(1, 600.0), Ending()
    end = {"ending": ending.end, "close": pool.close, "finish_within": lambda: pool.finish_within(0.1)}[how]
    raised: list[BaseException] = []

    def decode() -> None:
        try:
            pool.decode(b"x", SIZE, ending=ending)
        except EndedError as error:
            raised.append(error)

    thread = threading.Thread(target=decode)
    thread.start()
    time.sleep(0.3)
    end()
    thread.join(60)
    assert len(raised) == 1
    with pytest.raises(EndedError):
        pool.decode(b"x", SIZE, ending=ending)
    pool.close()


def test_one_hostile_image_leaves_the_other_child_free(child: list[str]) -> None:
    pool, ending = ImagePool(2, 600.0), Ending()

    def decode() -> None:
        with pytest.raises(EndedError):
            pool.decode(b"x", SIZE, ending=ending)

    hostile = threading.Thread(target=decode)
    hostile.start()
    time.sleep(0.3)
    child.clear()
    assert pool.decode(IMAGES[0].read_bytes(), SIZE).shape == (*SIZE, 3)
    ending.end()
    hostile.join(60)
    pool.close()


def mutants(kind: str, count: int) -> Iterator[bytes]:
    """Damaged copies of a small image: bytes changed, cut, doubled."""
    draw = random.Random(kind)
    plain = encoded(Image.radial_gradient("L").resize((40, 30)).convert("RGB"), kind)
    for _ in range(count):
        content = bytearray(plain)
        for _ in range(draw.randint(1, 8)):
            content[draw.randrange(len(content))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        if draw.random() < 0.3:
            at = draw.randrange(len(content))
            content[at:at] = content[: draw.randrange(len(content))]
        yield bytes(content[: draw.randint(1, len(content))] if draw.random() < 0.3 else content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000"])
def test_mutants_are_images_or_sentences(pool: ImagePool, kind: str) -> None:
    for content in mutants(kind, 150):
        try:
            assert pool.decode(content, (8, 8)).shape == (8, 8, 3)
        except ImageError as error:
            assert "\n" not in str(error)


def test_a_child_imports_by_the_names_that_its_parent_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own folder on the path would give every file of it a second, short name."""
    seen, real = [], subprocess.Popen

    def start(command: list[str], **more: Any) -> Any:
        seen.append(more["env"]["PYTHONPATH"].split(os.pathsep))
        return real(command, **more)

    monkeypatch.setattr(subprocess, "Popen", start)
    pool = ImagePool(1, 60)
    pool.decode(IMAGES[0].read_bytes(), SIZE)
    pool.close()
    package = Path(visualglm.__file__).parent
    assert str(package) not in seen[0] and seen[0][0] == str(package.parent)
