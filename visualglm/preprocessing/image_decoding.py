"""Decode an image file into RGB within bounded memory.

In: the whole file as bytes. Out: a PIL image in RGB, upright and over white (or as upstream, see images.py). Needs only
Pillow and numpy, so that a child process starts fast.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError, install_command
from ..files.untrusted_files import wrong_download
from .image_limits import MEMORY_LIMIT, CostlyError, MeteredBytes, check_exif, decoder_bytes, is_heif

SIDE_LIMIT = 1 << 18
"""Pixels of a width or height: resizing takes tables as long as a side, and a row of the result for each row."""

PIXEL_LIMIT = 178_956_970
"""Larger images are refused from their header: 683 MiB as Pillow stores RGB, its own limit for decompression bombs."""

ROWS_PER_STRIP = 256
"""Rows converted at once: a whole copy of a large image would take hundreds of megabytes."""

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "ICO": (".ico",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""The formats that are decoded: Pillow's names, and the suffixes of files.

Others of Pillow are left out: its EPS reader, for example, starts another program on the file. HEIF needs the extra
`heif`.
"""
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
OTHER_IMAGE_SUFFIXES = (
    *(".svg", ".psd", ".jxl", ".tga", ".exr", ".hdr", ".xcf", ".pcx", ".eps", ".xbm", ".xpm", ".jxr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
"""Suffixes of images that are not decoded: drawings, layered images, camera raw files."""

METERED = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"\0\0\0\x0cjP  ", b"\0\0\1\0\x89PNG")
"""First bytes of files that Pillow reads by chunks; `decoder_bytes` bounds the others."""

CODEC_BYTES = {"AVIF": 20, "HEIF": 14}
"""Bytes per pixel of the decoder. AVIF: planes of up to 12 bits and alpha, twice, and RGBA. HEIF: twice the memory
measured with 8-bit images that have alpha."""

# Pillow raises these for broken files, depending on the format.
PIL_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(RuntimeError, struct.error, zlib.error),
)


def decode_image(content: bytes, name: str, upstream: bool = False) -> Image.Image:
    """Check the memory and time that the decoder needs, then decode to RGB.

    Raises:
        ImageError: it is broken or of an unknown format, or needs more than `PIXEL_LIMIT` pixels, `SIDE_LIMIT` along a
            side, `MEMORY_LIMIT` bytes, or the time that image_limits.py allows.
    """
    try:
        needed = decoder_bytes(content)
        if is_heif(content):
            register_heif()
        file = MeteredBytes(content) if content.startswith(METERED) else io.BytesIO(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about bombs, which the checks refuse, and about damaged metadata
            with Image.open(file, formats=_formats()) as image:
                _check_size(image, needed)
                image.load()
                if not upstream:
                    return _as_seen(image)
                return _rgb(image) if image.mode == "RGB" else as_upstream(image, name)
    except ImageError:
        raise
    except CostlyError as error:
        raise ImageError(f"{name} is too costly to decode ({error}). Save it as a plain JPEG or PNG.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is too large to decode safely ({error}): shrink it below {PIXEL_LIMIT:,} pixels, and "
            f"{SIDE_LIMIT:,} a side."
        ) from error
    except MemoryError as error:
        raise ImageError(f"{name} takes more memory to decode than there is: shrink it.") from error
    except PIL_DECODE_ERRORS as error:
        raise ImageError(_diagnosis(content, name, error)) from error


@functools.cache
def register_heif() -> bool:
    """Let Pillow open HEIC; return False if the package of the extra `heif` is missing."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.options.DECODE_THREADS = 1  # the memory of threads would count towards a child's limit
    pillow_heif.register_heif_opener()
    return True


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(image: Image.Image, decoder: int) -> None:
    """Check the pixels, and the memory of decoder and conversion together.

    Raises:
        DecompressionBombError: there are too many pixels, in all or along a side.
        CostlyError: they take too much memory.
    """
    pixels = image.width * image.height
    if pixels > PIXEL_LIMIT or max(image.size) > SIDE_LIMIT:
        raise Image.DecompressionBombError(f"{image.width} x {image.height}")
    conversion = 0 if image.mode == "RGB" and "transparency" not in image.info else 5 if _is_deep(image) else 4
    codec = CODEC_BYTES.get(image.format or "", 0)
    _check_memory(pixels * (_pixel_bytes(image) + conversion + codec) + decoder)


def _check_memory(needed: int) -> None:
    if needed > MEMORY_LIMIT:
        raise CostlyError(f"{needed >> 20:,} MB of memory, of {MEMORY_LIMIT >> 20:,} at most")


def _pixel_bytes(image: Image.Image) -> int:
    """Return the bytes in which Pillow stores one pixel."""
    return 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("F", "I") or image.mode.startswith("I;")


def _diagnosis(content: bytes, name: str, error: Exception) -> str:
    """Say in one sentence why Pillow cannot read the file."""
    head = content[:1024]
    if is_heif(head) and not register_heif():
        return f"{name} is a HEIC image. Run: {install_command('heif')}, or save it as JPEG or PNG."
    if b"<svg" in head.lower():
        return f"{name} is an SVG drawing, not an image of pixels: export it as PNG."
    fault = wrong_download(head)
    if fault is not None:
        return f"{name} {fault}"
    if isinstance(error, UnidentifiedImageError) and not is_heif(head):
        register_heif()  # so that a process that decodes no HEIC yet names it, too
        return f"{name} is not an image of a known kind ({', '.join(_formats())}). Save it as PNG or JPEG."
    return f"{name} is broken or cut short ({error}). Get a whole copy."


def as_upstream(image: Image.Image, name: str) -> Image.Image:
    """Convert to RGB as upstream: orientation is ignored, transparency dropped, deep grey clipped."""
    try:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except PIL_DECODE_ERRORS as error:
        raise ImageError(f"{name} cannot become RGB ({error}). Save it as PNG or JPEG.") from error


def _as_seen(image: Image.Image) -> Image.Image:
    """Convert to upright RGB in 8 bits over white."""
    if _is_turned(image):
        _check_memory(2 * image.width * image.height * _pixel_bytes(image))
        with contextlib.suppress(*PIL_DECODE_ERRORS):  # as below
            image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        return _over_white(image)
    return _rgb(image)


def _is_turned(image: Image.Image) -> bool:
    """Return True if EXIF says that the image is rotated; an upright image is not copied."""
    with contextlib.suppress(*PIL_DECODE_ERRORS):  # the pixels are valid even if the EXIF block is broken
        check_exif(_exif_block(image))
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    return False


def _exif_block(image: Image.Image) -> bytes:
    """Return the EXIF data from where Pillow finds it: a block of its own, or text in a PNG."""
    if "exif" in image.info:
        return bytes(image.info["exif"])
    return bytes.fromhex("".join(str(image.info.get("Raw profile type exif", "")).split("\n")[3:]))


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, without copying pixels that are RGB already."""
    return image._new(image.im) if image.mode == "RGB" and "transparency" not in image.info else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Blend transparency with white, strip by strip."""
    whole = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        over = strip.convert("RGBA")
        whole.paste(Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB"), (0, top))
    return whole


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    for top in range(0, image.height, ROWS_PER_STRIP):
        yield top, image.crop((0, top, image.width, min(top + ROWS_PER_STRIP, image.height)))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep grey to 8 bits, strip by strip: 16-bit by its whole range, 32-bit and float by the likely range."""
    most = max(float(_grey(strip).max()) for _, strip in _strips(image))
    ranges = (1.0, 255.0) if image.mode == "F" else (65535.0,)
    top = next((limit for limit in ranges if most <= limit), most)
    whole = Image.new("L", image.size)
    for start, strip in _strips(image):
        whole.paste(Image.fromarray(np.rint(_grey(strip).clip(0, top) * (255 / top)).astype(np.uint8)), (0, start))
    return whole


def _grey(strip: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(strip, dtype=np.float32))
