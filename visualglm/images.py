"""images: any picture becomes RGB, and RGB becomes pixel_values.

In: a path, bytes, an open file, a data URL, a PIL picture or an array. Out: a PIL picture in RGB (`open_image`), or
`pixel_values` [pictures, 3, H, W] float32 (`VisualGLMImageProcessor`). Pillow does it all. Knows nothing about text or
models, and never fetches: a URL is refused.

A picture that is opened here (path, bytes, file, data URL) is shown as a viewer would show it: EXIF orientation is
honoured, transparency lies over white, 16-bit grey is scaled to 8. Upstream did none of these (visual.py: plain
`convert("RGB")`), which `upstream=True` repeats. A picture already in memory (PIL, array) is taken as it is.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from .errors import ImageError

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
"""What `open_image` takes."""

PIXEL_LIMIT = 178_956_970
"""Larger pictures are refused from their header: 512 MiB as RGB, Pillow's own limit for decompression bombs."""

STRIP = 256
"""Rows of a transparent picture that are laid over white at once."""

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000")
"""What is decoded. Not all that Pillow knows: its EPS reader, for one, starts another program on the file."""

# what Pillow raises for broken files, depending on the format
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(RuntimeError, struct.error, zlib.error),
)
URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
DATA_URL_HEADER = 1024
"""Characters before the data of a data URL, at most."""
BASE64_SLICE = 1 << 20
"""Characters decoded at once."""
STANDARD_BASE64 = bytes.maketrans(b"-_", b"+/")
PERCENT_ESCAPES = {
    f"%{code}".encode(): bytes.fromhex(code)
    for code in ("2B", "2b", "2F", "2f", "3D", "3d", "2D", "2d", "5F", "5f", "0D", "0d", "0A", "0a", "09", "20")
}
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")


def open_image(source: ImageSource, *, upstream: bool = False) -> Image.Image:
    """A picture in RGB, from a path, bytes, a file object, a data URL, a PIL picture, or an array.

    Arrays: [H, W], [H, W, 1 | 3 | 4] or channels first; uint8, bool, or floats in 0..1. Of an animation, the first
    frame. `upstream=True` ignores orientation and drops transparency, as upstream does with files.

    Raises `ImageError`, one sentence that names the source, for a URL, a missing, empty, truncated or foreign file, and
    for more than `PIXEL_LIMIT` pixels (before anything is decoded).
    """
    if isinstance(source, Image.Image):
        return _as_upstream(source, "The picture")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"The picture ({len(source)} bytes)", upstream)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _decode(io.BytesIO(data_url_bytes(source)), "The picture in the data URL", upstream)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), upstream)
    if hasattr(source, "read"):
        return _decode(_seekable(source), f"The picture {getattr(source, 'name', 'in the file object')}", upstream)
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source.detach().cpu() if hasattr(source, "detach") else source))
    raise ImageError(
        f"A picture cannot be a {type(source).__name__}: give a path, bytes, an open file, a data URL, a PIL picture "
        "or an array."
    )


def _open_path(path: str, upstream: bool) -> Image.Image:
    if URL.match(path):
        raise ImageError(f"{path[:100]} is a URL, and pictures are not fetched: download it and give the file.")
    if not path.strip():
        raise ImageError("No picture was named: give its path.")
    try:
        if Path(path).is_dir():
            raise ImageError(f"{path} is a folder: give one picture in it.")
        if not Path(path).is_file():
            raise ImageError(f"{path[:200]} does not exist, or is no file: check the path.")
        with Path(path).open("rb") as file:
            return _decode(file, path, upstream)
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"{path[:200]!r} cannot be read ({error}): check the path and its permissions.") from error


def data_url_bytes(url: str) -> bytes:
    """Return the bytes in a base64 data URL.

    Line breaks, the URL-safe alphabet, and percent-escapes of what is not a letter or a digit are accepted.

    Raises:
        ImageError: it has no base64 data, or broken base64.
    """
    comma = url.find(",", 0, DATA_URL_HEADER)
    if url[:5].lower() != "data:" or not url[:comma].lower().endswith(";base64"):
        raise ImageError("The data URL has no base64 data: write data:image/png;base64,... .")
    return base64_bytes(url, comma + 1)


def base64_bytes(text: str, start: int = 0) -> bytes:
    """Return the bytes whose base64 begins at `start`; decoded in slices, so that no other thread waits for all of it.

    Raises:
        ImageError: the base64 is broken.
    """
    content, rest = [], b""
    try:
        for place in range(start, len(text), BASE64_SLICE):
            piece = rest + text[place : place + BASE64_SLICE].encode("ascii")
            last = place + BASE64_SLICE >= len(text)
            cut = len(piece) if last else max(piece.rfind(b"%", len(piece) - 2), 0) or len(piece)
            piece, rest = piece[:cut], piece[cut:]  # no percent-escape is cut
            for escape, character in PERCENT_ESCAPES.items() if b"%" in piece else ():
                piece = piece.replace(escape, character)
            piece = piece.translate(STANDARD_BASE64, b" \t\r\n\v\f")
            if last:
                piece = piece.rstrip(b"=")
                piece += b"=" * (-len(piece) % 4)
            whole = len(piece) - len(piece) % 4
            content.append(base64.b64decode(piece[:whole], validate=True))
            rest = piece[whole:] + rest
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"The base64 in the data URL is broken ({error}): encode the whole file again.") from error
    return b"".join(content)


def _seekable(file: Any) -> BinaryIO:
    """Pillow wants to seek; a pipe cannot."""
    if isinstance(file, io.TextIOBase):
        raise ImageError("The picture's file is opened as text: open it with mode 'rb'.")
    if getattr(file, "seekable", lambda: False)():
        return file  # type: ignore[no-any-return]
    return io.BytesIO(file.read())


def _decode(file: BinaryIO, name: str, upstream: bool) -> Image.Image:
    """Opens, checks the size that the header states, and only then decodes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is the one that counts
            opened = Image.open(file, formats=_formats())
        with opened as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise Image.DecompressionBombError(f"{image.width} x {image.height}")
            image.load()
            return _as_upstream(image, name) if upstream else _as_seen(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is too large to decode safely ({error}): shrink it below {PIXEL_LIMIT:,} pixels."
        ) from error
    except BROKEN as error:
        raise ImageError(_diagnosis(file, name, error)) from error


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _diagnosis(file: BinaryIO, name: str, error: Exception) -> str:
    """One sentence for a file that Pillow cannot read."""
    try:
        file.seek(0)
        head = file.read(1024)
    except (OSError, ValueError):
        head = b"?"
    if not head:
        return f"{name} is empty: the download or the copy failed, so get it again."
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        return f"{name} is a HEIC picture, which is not supported: save it as JPEG or PNG."
    if b"<svg" in head.lower():
        return f"{name} is an SVG drawing, not a picture of pixels: export it as PNG."
    if head.startswith(b"version https://git-lfs"):
        return f"{name} is a git-lfs pointer, not the picture itself: run `git lfs pull`."
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"{name} is a web page, not a picture: download the picture itself."
    if isinstance(error, UnidentifiedImageError):
        return f"{name} is not a picture of a known kind ({', '.join(_formats())}): save it as PNG or JPEG."
    return f"{name} is broken or cut short ({error}): get a whole copy."


def _as_upstream(image: Image.Image, name: str) -> Image.Image:
    """Plain `convert`: orientation ignored, transparency dropped, deeper greys clipped as Pillow clips them."""
    try:
        return image.convert("RGB")
    except BROKEN as error:
        raise ImageError(f"{name} cannot become RGB ({error}): save it as PNG or JPEG.") from error


def _as_seen(image: Image.Image) -> Image.Image:
    """Upright, over white, in 8 bits."""
    with contextlib.suppress(*BROKEN):  # a broken EXIF block says nothing about the orientation; the pixels are whole
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # it would copy an upright picture, too
            image = ImageOps.exif_transpose(image)
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        return _over_white(image)
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Without its transparency; strip by strip, since each whole copy of a large picture is hundreds of megabytes."""
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height))).convert("RGBA")
        whole.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
    return whole


def _eight_bits(image: Image.Image) -> Image.Image:
    """Deep grey to 8 bits: 16-bit by its whole range, 32-bit and float by the range it seems to use."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32))
    most = float(grey.max())
    ranges = (1.0, 255.0) if image.mode == "F" else (65535.0,)
    top = next((limit for limit in ranges if most <= limit), most)
    return Image.fromarray(np.rint(grey.clip(0, top) * (255 / top)).astype(np.uint8))


def _from_array(array: np.ndarray) -> Image.Image:
    """[H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels; a fourth channel is dropped."""
    shape = array.shape
    if array.ndim == 3 and shape[-1] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise ImageError(f"An array of shape {shape} is no picture: give [H, W], [H, W, 3] or [H, W, 4].")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):
            raise ImageError(
                f"An array of floats must lie in 0..1, and this one lies in {array.min():g}..{array.max():g}: "
                "divide by 255, or give uint8."
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ImageError(f"An array of {array.dtype} is ambiguous: give uint8, or floats in 0..1.")
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array[..., :3] if array.ndim == 3 else array
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


class VisualGLMImageProcessor(PilBackend):
    """Pictures to `pixel_values` [pictures, 3, H, W]: bicubic to `size`, aspect not kept, CLIP's mean and std.

    Equal to upstream's `BlipImageEvalProcessor` (visual.py:72-98) on a PIL picture. Takes whatever `open_image` takes,
    one, a list, or a list per row; the rows are joined. A URL is an `ImageError`.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    model_input_names = ["pixel_values"]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Opens what transformers would download."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(source) for source in image_url_or_urls]
        return open_image(image_url_or_urls)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """One list of pictures; a 4-D array is a list of them."""
        if isinstance(images, (list, tuple)):
            return [picture for part in images for picture in self._prepare_images_structure(part, expected_ndims)]
        if getattr(images, "ndim", 0) > expected_ndims:
            return [picture for part in images for picture in self._prepare_images_structure(part, expected_ndims)]
        return [images]

    def process_image(self, image: Any, **kwargs: Any) -> np.ndarray:
        """[3, H, W] uint8, not resized yet."""
        return np.moveaxis(np.asarray(open_image(image)), -1, 0)
