"""Images: equal to upstream's pixels, any source, and one clear sentence for what is no image."""

from __future__ import annotations

import base64
import collections
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from transformers.image_processing_backends import PilBackend

import visualglm
from visualglm.errors import ImageError
from visualglm.preprocessing import image_decoding, images
from visualglm.preprocessing.image_decoding import PIXEL_LIMIT, ROWS_PER_STRIP
from visualglm.preprocessing.image_pool import ImagePool
from visualglm.preprocessing.images import VisualGLMImageProcessor, open_image

REFERENCE = Path(__file__).parents[1] / "reference"
PIXELS = np.load(REFERENCE / "image_preprocess.npz")
NAMES = sorted({key.split("__")[0] for key in PIXELS.files})
SMALL = VisualGLMImageProcessor(size={"height": 56, "width": 56})


def file_of(name: str) -> Path:
    return REFERENCE / "images" / f"{name}.png"


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_pixel_values_are_upstreams(name: str) -> None:
    for image in (Image.open(file_of(name)), open_image(file_of(name), upstream=True)):
        got = SMALL(image, return_tensors="pt")["pixel_values"]
        assert got.dtype == torch.float32
        assert np.abs(got[0].numpy() - upstreams_pixels(name)).max() <= 1e-6


def upstreams_pixels(name: str) -> np.ndarray:
    """As stored; Pillow below 13 rounds one hard contrast otherwise than the Pillow 13 of the reference, so there
    upstream's steps are taken with the Pillow at hand."""
    if name != "la" or int(PIL.__version__.split(".")[0]) >= 13:
        return np.asarray(PIXELS[f"{name}__pixel_values"])
    resized = Image.open(file_of(name)).convert("RGB").resize((56, 56), Image.Resampling.BICUBIC)
    normal = (np.asarray(resized) / 255 - SMALL.image_mean) / SMALL.image_std
    return np.moveaxis(normal, -1, 0)


def test_pixel_values_in_full_size() -> None:
    got = VisualGLMImageProcessor()(Image.open(file_of("rgb")), return_tensors="np")["pixel_values"]
    assert np.abs(got[0] - PIXELS["rgb__pixel_values_224"]).max() <= 1e-6


def test_takes_one_many_and_rows_of_images() -> None:
    one = Image.open(file_of("rgb"))
    assert SMALL(one, return_tensors="pt")["pixel_values"].shape == (1, 3, 56, 56)
    rows = [[one, str(file_of("la"))], [], [np.zeros((5, 4), np.uint8), file_of("p")]]
    assert SMALL(rows, return_tensors="pt")["pixel_values"].shape == (4, 3, 56, 56)
    assert SMALL(torch.zeros(2, 3, 8, 9), return_tensors="pt")["pixel_values"].shape == (2, 3, 56, 56)
    with pytest.raises(ImageError, match="URL"):
        SMALL(["http://127.0.0.1:9/x.png"])
    with pytest.raises(ImageError, match="URL"):
        SMALL.fetch_images("http://127.0.0.1:9/x.png")


def test_the_processor_is_saved(tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    again = VisualGLMImageProcessor.from_pretrained(tmp_path)
    image = Image.open(file_of("odd"))
    np.testing.assert_array_equal(again(image)["pixel_values"][0], SMALL(image)["pixel_values"][0])


def test_every_source_gives_the_same_image() -> None:
    path = file_of("rgb")
    data = path.read_bytes()
    text = base64.b64encode(data).decode()
    wrapped = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    url_safe = text.rstrip("=").replace("+", "-").replace("/", "_")
    expected = np.asarray(Image.open(path))
    with path.open("rb") as file:
        sources = [
            *(path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file, expected),
            *(f"data:image/png;base64,{text}", f"DATA:;base64,{wrapped}", f"data:image/png;x=y;base64,{url_safe}"),
            *(expected / 255, np.moveaxis(expected, -1, 0), torch.from_numpy(expected.copy()), Image.open(path)),
        ]
        for source in sources:
            image = open_image(source)
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), expected)


class Pipe(io.RawIOBase):
    """Bytes that can be read once, like stdin."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.data.readinto(buffer)


def test_a_pipe_is_a_source() -> None:
    assert open_image(Pipe(file_of("rgb").read_bytes())).size == (160, 120)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured_and_upstream_ignored_it(orientation: int) -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    corners = {1: (0, 0), 2: (3, 0), 3: (3, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 3), 8: (0, 3)}
    seen = open_image(data)
    assert seen.size == ((4, 2) if orientation < 5 else (2, 4))
    assert seen.getpixel(corners[orientation]) == (255, 0, 0)
    assert open_image(data, upstream=True).size == (4, 2)


def test_a_broken_exif_block_changes_nothing() -> None:
    data = encoded(Image.new("RGB", (4, 2), "red"), "JPEG", exif=b"Exif\0\0garbage")
    assert open_image(data).size == (4, 2)


def test_transparency_lies_over_white_and_upstream_dropped_it() -> None:
    clear_red = Image.new("RGBA", (1, 1), (255, 0, 0, 0))
    half_black = Image.new("LA", (1, 1), (0, 128))
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    for data, seen, dropped in (
        (encoded(clear_red), (255, 255, 255), (255, 0, 0)),
        (encoded(clear_red, "WEBP", lossless=True, exact=True), (255, 255, 255), (255, 0, 0)),
        (encoded(half_black), (127, 127, 127), (0, 0, 0)),
        (encoded(palette, transparency=1), (255, 255, 255), (0, 0, 255)),
        (encoded(Image.new("RGB", (1, 1), "red"), transparency=(255, 0, 0)), (255, 255, 255), (255, 0, 0)),
    ):
        assert open_image(data).getpixel((0, 0)) == seen
        assert open_image(data, upstream=True).getpixel((0, 0)) == dropped


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_strips_over_white_are_the_whole_over_white(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2 * ROWS_PER_STRIP + 3, 5, len(mode)), dtype=np.uint8)
    image = Image.fromarray(noise, mode).convert("RGBA")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    seen = whole if orientation == 1 else whole.transpose(Image.Transpose.ROTATE_270)
    real, heights = Image.alpha_composite, []

    def noted(under: Image.Image, over: Image.Image) -> Image.Image:
        heights.append(over.height)
        return real(under, over)

    monkeypatch.setattr(Image, "alpha_composite", noted)
    assert open_image(encoded(image, exif=exif)).tobytes() == seen.tobytes()
    assert max(heights) <= ROWS_PER_STRIP, "a whole copy of a large picture is hundreds of megabytes"


def test_deep_grey_is_scaled_and_upstream_clipped_it() -> None:
    ramp = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF", "PPM"):
        data = encoded(Image.fromarray(ramp), kind)
        assert np.asarray(open_image(data))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert np.asarray(open_image(encoded(Image.fromarray(ramp)), upstream=True))[0, :, 0].tolist() == [0, 255, 255, 255]
    for top in (1.0, 255.0, 1000.0):
        floats = Image.fromarray(np.array([[0, top / 2, top, -1]], dtype=np.float32))
        assert np.asarray(open_image(encoded(floats, "TIFF")))[0, :, 0].tolist() == [0, 128, 255, 0]


def test_other_modes_and_shapes() -> None:
    assert open_image(encoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF")).getpixel((0, 0)) == (255, 0, 0)
    assert open_image(encoded(Image.new("1", (3, 3), 1))).getpixel((1, 1)) == (255, 255, 255)
    assert open_image(encoded(Image.new("L", (1, 1), 7))).getpixel((0, 0)) == (7, 7, 7)
    for size in ((1, 1), (1, 10000), (10000, 1), (2, 3)):
        image = open_image(encoded(Image.new("RGB", size, (9, 9, 9))))
        values = SMALL(image, return_tensors="pt")["pixel_values"]
        assert values.shape == (1, 3, 56, 56)
        assert torch.equal(values, values[:, :, :1, :1].expand_as(values))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert open_image(data).getpixel((1, 1)) == (255, 0, 0)


def test_arrays() -> None:
    red = np.zeros((2, 3, 4), np.uint8)
    red[..., 0] = 255
    assert open_image(red).getpixel((0, 0)) == (255, 0, 0)  # the fourth channel is dropped
    assert open_image(np.ones((2, 3), bool)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(np.full((2, 3, 1), 7, np.uint8)).getpixel((0, 0)) == (7, 7, 7)
    for array, says in (
        (np.zeros((2, 3, 5), np.uint8), "shape"),
        (np.zeros((0, 3), np.uint8), "shape"),
        (np.zeros(3, np.uint8), "shape"),
        (np.full((2, 2), 2.0), r"0\.\.1"),
        (np.full((2, 2), np.nan), r"0\.\.1"),
        (np.zeros((2, 2), np.int64), "int64"),
    ):
        with pytest.raises(ImageError, match=says):
            open_image(array)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that states a size and has no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match="too large"):
        open_image(bomb(30000, 30000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match=f"{PIXEL_LIMIT:,}"):
        open_image(bomb(PIXEL_LIMIT // 100, 101))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello", "is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC|cut short"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"  <!DOCTYPE html><html>", "web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        ((REFERENCE / "images" / "rgb.png").read_bytes()[:3000], "cut short"),
        ((REFERENCE / "images" / "rgb.png").read_bytes()[:20], "cut short|is not an image"),
    ],
)
def test_what_is_no_image_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(content)
    for source in (file, content, io.BytesIO(content)):
        with pytest.raises(ImageError, match=says) as raised:
            open_image(source)
        assert "\n" not in str(raised.value)
    with pytest.raises(ImageError, match=str(file)):
        open_image(file)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        *((url, "is a URL") for url in ("http://a/b.png", "HTTPS://a", "ftp://a", "s3://b")),
        ("data:image/png,abc", "no base64"),
        ("data:image/png;base64,@@@@", "broken"),
        ("data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(), "SVG"),
        ("file:///etc/passwd", "is the URL of a file. Give its path"),
        ("no/such/file.png", "does not exist"),
        ("a\0b", "does not exist|cannot be read"),
        ("x" * 5000, "does not exist|cannot be read"),
        (str(REFERENCE), "is a folder"),
        ("/dev/null", "is not a file"),
        (7, "cannot be a int"),
        (None, "cannot be a NoneType"),
        (io.StringIO("x"), "as text"),
    ],
)
def test_sources_that_are_refused(source: Any, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        open_image(source)


KINDS = {
    kind: encoded(Image.radial_gradient("L").resize((24, 24)), kind)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged metadata
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_damaged_files_never_end_in_another_error(kind: str, data: st.DataObject) -> None:
    content = bytearray(KINDS[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    try:
        assert open_image(bytes(content)).mode == "RGB"
    except ImageError as error:
        assert "\n" not in str(error)


class ThroughArrays(VisualGLMImageProcessor):
    """Resizes as transformers does, from an array of the whole image."""

    def process_image(self, image: Any, **kwargs: Any) -> np.ndarray:
        return np.moveaxis(np.asarray(open_image(image)), -1, 0)

    resize = PilBackend.resize


@pytest.mark.parametrize("options", [{}, {"size": {"shortest_edge": 30}}, {"do_resize": False}, {"resample": 2}])
@pytest.mark.parametrize("shape", [(224, 224), (1, 1), (3, 500), (701, 223), (224, 225), (900, 1300)])
def test_resizing_without_an_array_gives_the_same_bits(shape: tuple[int, int], options: dict[str, Any]) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8))
    ours, theirs = VisualGLMImageProcessor(), ThroughArrays()
    assert torch.equal(
        ours(image, return_tensors="pt", **options)["pixel_values"],
        theirs(image, return_tensors="pt", **options)["pixel_values"],
    )


def test_an_image_is_decoded_once_resized_once_and_never_copied(
    program: Any, opened: visualglm.VisualGLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "photo.png", collections.Counter[str]()
    Image.new("RGB", (640, 480), "red").save(path)

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            done[name] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    for module in (images, image_decoding):  # the command line decodes before it imports torch
        counted(module, "decode_image")
    for name in ("resize", "convert", "copy", "tobytes"):
        counted(Image.Image, name)
    assert program("ask", str(path), "?", "--max-new-tokens", "1", "--device", "cpu").returncode == 0
    once = {"decode_image": 1, "resize": 1, "tobytes": 1}  # the last is the small one, for numpy
    assert done == once, "by the command line"
    done.clear()
    opened.caption([path], "?", max_new_tokens=1)
    assert done == once, "by caption"


def test_a_broken_image_of_pil_is_one_sentence() -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, "PNG")
    cut = Image.open(io.BytesIO(file.getvalue()[:-4000]))  # not decoded yet
    with pytest.raises(ImageError, match="cannot become RGB"):
        open_image(cut)


def test_a_model_that_was_resized_reads_its_new_size() -> None:
    opened = visualglm.load(device="cpu")
    side = opened.model.config.vision.image_size + opened.model.config.vision.patch_size
    opened.model.resize_image_size(side)
    assert opened.pixel_values(Image.new("RGB", (9, 9))).shape == (1, 3, side, side)


@pytest.fixture(scope="module")
def heic() -> bytes:
    """Return a HEIC image whose EXIF block says that it is turned."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (64, 96), "red").save(file, "HEIF", exif=exif.tobytes())
    return file.getvalue()


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere")
    with pytest.raises(ImageError, match=r"a\.png is a broken link"):
        open_image(str(tmp_path / "a.png"))


def test_heic_is_upright_in_every_process(heic: bytes) -> None:
    assert open_image(heic).size == (96, 64)
    pool = ImagePool(1, 60)
    try:
        assert pool.decode(heic, (8, 8)).reshape(-1, 3).mean(axis=0).tolist() == pytest.approx([254, 0, 0], abs=3)
    finally:
        pool.close()
    with pytest.raises(ImageError, match="broken or cut short"):
        open_image(heic[: len(heic) // 2])


def test_heic_is_bounded_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("it was opened"))
    size = struct.pack(">L4sLLL", 20, b"ispe", 0, 1 << 16, 1 << 16)
    with pytest.raises(ImageError, match=r"too costly to decode \(65,536 x 65,536 pixels\)"):
        open_image(b"\0\0\0\x18ftypheic" + bytes(12) + size)


def test_heic_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decoding, "register_heif", lambda: False)
    with pytest.raises(ImageError, match=r"is a HEIC image. Run: pip install .*, or save it as JPEG"):
        open_image(b"\0\0\0\x18ftypheic\0\0\0\0")
