"""More mutants, large honest images at the bound, and a whole server under hostile ones: minutes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from visualglm.errors import ImageError
from visualglm.preprocessing.image_pool import ImagePool

from .image_attacks import encoded
from .test_image_pool import mutants
from .test_image_serving import body

LARGE = """
import resource, sys
from PIL import Image
from tests.security.image_attacks import encoded, png
from visualglm.preprocessing.image_decoding import decode_image
from visualglm.preprocessing.image_limits import MEMORY_LIMIT
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


NAMES = ["jpeg", "turned jpeg", "progressive jpeg", "png", "png with alpha", "png in 16 bits", "webp", "tiff"]
NAMES += ["avif", "jpeg2000"]


@pytest.mark.parametrize("name", NAMES)
def test_large_honest_images_open_within_the_bound(name: str, tmp_path: Path) -> None:
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


def slow() -> bytes:
    """As many scans of as many pixels as the header checks let through."""
    plain = encoded(Image.new("L", (6000, 6000)), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last:-2] * 90 + plain[-2:]


def test_sigterm_ends_a_server_that_decodes_hostile_images(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    command = [sys.executable, "-m", "visualglm", "serve", "--no-web", "--port", str(port)]
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out)
    url, hostile = f"http://127.0.0.1:{port}", body(slow())
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            time.sleep(0.2)

        async def send() -> None:
            async with httpx.AsyncClient(timeout=120) as client:
                waiting = [asyncio.ensure_future(client.post(f"{url}/", json=hostile)) for _ in range(4)]
                await asyncio.sleep(2)
                assert not any(one.done() for one in waiting), "they still decode"
                assert (await client.get(f"{url}/health")).status_code == 200
                server.send_signal(signal.SIGTERM)
                replies = await asyncio.gather(*waiting)  # 200: decoded within the seconds that are left
                assert {reply.status_code for reply in replies} <= {200, 400, 503}

        asyncio.run(send())
        assert server.wait(60) is not None
        assert "Traceback" not in log.read_text(encoding="utf-8")
    finally:
        server.kill()
        server.wait()
