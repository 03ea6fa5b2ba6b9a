"""Open an image as RGB, and turn RGB into `pixel_values`.

In: a path, bytes, an open file, a data URL, a PIL image or an array. Out: a PIL image in RGB (`open_image`), or
`pixel_values` [images, 3, H, W] float32 (`VisualGLMImageProcessor`). Pillow decodes and resizes. A URL is refused.

An encoded image (path, bytes, file, data URL) is decoded as a viewer shows it: EXIF orientation is applied,
transparency is blended with white, 16-bit grey is scaled to 8 bits. Upstream did none of these (visual.py: plain
`convert("RGB")`), which `upstream=True` repeats. An image in memory (PIL, array) is used unchanged; a PIL image in RGB
is not copied.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from ..errors import ImageError
from ..network.configuration import VisualGLMConfig
from .image_bytes import read_path, read_stream
from .image_decoding import as_upstream, decode_image

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
"""Types that `open_image` accepts."""

DATA_URL_HEADER = 1024
"""Maximum characters before the data of a data URL."""
BASE64_SLICE = 1 << 20
"""Characters of base64 decoded at once."""
STANDARD_BASE64 = bytes.maketrans(b"-_", b"+/")
PERCENT_ESCAPES = {
    f"%{code}".encode(): bytes.fromhex(code)
    for code in ("2B", "2b", "2F", "2f", "3D", "3d", "2D", "2d", "5F", "5f", "0D", "0d", "0A", "0a", "09", "20")
}


def open_image(source: ImageSource, *, upstream: bool = False) -> Image.Image:
    """Open an image as RGB: a path, bytes, a file object, a data URL, a PIL image, or an array.

    Arrays are [H, W], [H, W, 1 | 3 | 4] or channels first, of uint8, bool, or floats in 0..1. Only the first frame of
    an animation is read. `upstream=True` ignores orientation and drops transparency, as upstream does with files.

    Raises:
        ImageError: the source is a URL, no regular file, missing, empty, truncated, or of an unknown format; has more
            than `FILE_LIMIT` bytes; or (before it is decoded) more than `PIXEL_LIMIT` pixels, or more memory or work
            than image_decoding.py allows. The message names the source.
    """
    if isinstance(source, Image.Image):
        return as_upstream(source, "The image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_image(bytes(source), f"The image ({len(source)} bytes)", upstream)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return decode_image(data_url_bytes(source), "The image in the data URL", upstream)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return decode_image(read_path(path), path, upstream)
    if hasattr(source, "read"):
        name = f"The image {getattr(source, 'name', 'in the file object')}"
        return decode_image(read_stream(source, name), name, upstream)
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source.detach().cpu() if hasattr(source, "detach") else source))
    raise ImageError(
        f"An image cannot be a {type(source).__name__}. Give a path, bytes, an open file, a data URL, a PIL image "
        "or an array."
    )


def data_url_bytes(url: str) -> bytes:
    """Return the bytes in a base64 data URL.

    Line breaks, the URL-safe alphabet, and percent-escapes of what is not a letter or a digit are accepted.

    Raises:
        ImageError: it has no base64 data, or broken base64.
    """
    comma = url.find(",", 0, DATA_URL_HEADER)
    if url[:5].lower() != "data:" or not url[:comma].lower().endswith(";base64"):
        raise ImageError("The data URL has no base64 data. Write data:image/png;base64,... .")
    return base64_bytes(url, comma + 1)


def base64_bytes(text: str, start: int = 0) -> bytes:
    """Decode base64 from `start` on, in slices, so that other threads can run in between.

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


def _from_array(array: np.ndarray) -> Image.Image:
    """Convert [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels; a fourth channel is dropped."""
    shape = array.shape
    if array.ndim == 3 and shape[-1] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise ImageError(f"An array of shape {shape} is not an image. Give [H, W], [H, W, 3] or [H, W, 4].")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):
            raise ImageError(
                f"An array of floats must be in 0..1, and this one is in {array.min():g}..{array.max():g}: "
                "divide by 255, or give uint8."
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ImageError(f"An array of {array.dtype} is ambiguous. Give uint8, or floats in 0..1.")
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array[..., :3] if array.ndim == 3 else array
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


class VisualGLMImageProcessor(PilBackend):
    """Turns images into `pixel_values` [images, 3, H, W]: bicubic to `size`, aspect not kept, CLIP's mean and std.

    Equal to upstream's `BlipImageEvalProcessor` (visual.py:72-98) on a PIL image. Accepts what `open_image` accepts:
    one, a list, or a list per row; the rows are joined. A URL raises `ImageError`.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    model_input_names = ["pixel_values"]

    @classmethod
    def for_config(cls, config: VisualGLMConfig) -> VisualGLMImageProcessor:
        """Build the image processor for a model's image size."""
        side = config.vision.image_size
        return cls(size={"height": side, "width": side})

    def read(self, source: ImageSource, upstream: bool = False) -> Tensor:
        """Decode and resize one image: `pixel_values` [1, 3, H, W].

        Raises:
            ImageError: it cannot be opened.
        """
        return self(open_image(source, upstream=upstream), return_tensors="pt")["pixel_values"]  # type: ignore[no-any-return]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open images; transformers would download URLs here, which are refused."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(source) for source in image_url_or_urls]
        return open_image(image_url_or_urls)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """Flatten to one list of images; a 4-D array is a list of images."""
        if isinstance(images, (list, tuple)):
            return [image for part in images for image in self._prepare_images_structure(part, expected_ndims)]
        if getattr(images, "ndim", 0) > expected_ndims:
            return [image for part in images for image in self._prepare_images_structure(part, expected_ndims)]
        return [images]

    def process_image(
        self, image: Any, do_resize: bool | None = None, size: Any = None, resample: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Decode and resize one image: uint8 [3, H, W].

        Pillow resizes here, one image at a time, so that only one is in memory at full size. Through an array, as in
        transformers, 12 megapixels take twice as long.
        """
        opened = open_image(image)
        if do_resize and size is not None and size.height and size.width and isinstance(resample, int):
            opened = opened.resize((size.width, size.height), resample)
        return np.moveaxis(np.asarray(opened), -1, 0)

    def resize(self, image: np.ndarray, size: Any, **kwargs: Any) -> np.ndarray:
        """Resize to a size that `process_image` cannot use: one without height and width."""
        return image if image.shape[-2:] == (size.height, size.width) else super().resize(image, size, **kwargs)
