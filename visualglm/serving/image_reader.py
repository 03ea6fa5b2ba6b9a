"""Read untrusted image input: data URLs and URLs on allowed hosts, never paths."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import ImageError, PromptError
from ..preprocessing.images import data_url_bytes
from ..preprocessing.prompt import Turn
from .url_fetcher import ImageFetcher

MAX_IMAGES = 16
"""Maximum images in one request; each takes `image_length` tokens of the prompt."""
MAX_IMAGE_BYTES = 80_000_000
"""Maximum bytes of encoded images in one request; images by URL could exceed the limit on the body."""
MAX_TEXT = 500_000
"""Maximum characters of the questions and answers in one request; the model reads 2,048 tokens."""
FETCHERS = 4
"""Maximum images fetched at once, over all requests."""


class ImageReader:
    """Reader of image sources; hosts are those of the fetcher."""

    def __init__(self, fetcher: ImageFetcher) -> None:
        self.fetcher = fetcher
        self._fetchers = ThreadPoolExecutor(FETCHERS, "fetcher")  # a slow host delays only other fetches

    async def read_all(self, sources: Sequence[Any]) -> list[bytes]:
        """Read the bytes of every image.

        Raises:
            ImageError: one of them may not, or cannot, be read, or there are too many.
        """
        refuse_too_many(sources)
        contents: list[bytes] = []
        for source in sources:
            threads = self._fetchers if _is_url(source) else None
            contents.append(await asyncio.get_running_loop().run_in_executor(threads, self.read, source))
            if sum(map(len, contents)) > MAX_IMAGE_BYTES:
                raise ImageError(f"The images have more than {MAX_IMAGE_BYTES} bytes. Send fewer or smaller ones.")
        return contents

    def read(self, source: Any) -> bytes:
        """Read the bytes of one image.

        Raises:
            ImageError: it may not, or cannot, be read.
        """
        if not isinstance(source, str):
            raise ImageError('An image has no source. Give image_url as {"url": "data:image/png;base64,..."}.')
        if source[:5].lower() == "data:":
            return data_url_bytes(source)
        if _is_url(source):
            return self.fetcher(source)
        raise ImageError("An image must be a data URL (data:image/png;base64,...), not a path or another URL.")


def _is_url(source: Any) -> bool:
    return isinstance(source, str) and source[:5].lower() in ("http:", "https")


def refuse_too_many(sources: Sequence[Any]) -> None:
    """Raise `ImageError` for more images than one request may have."""
    if len(sources) > MAX_IMAGES:
        raise ImageError(f"{len(sources)} images are too many for one request. Send at most {MAX_IMAGES}.")


def refuse_long_texts(turns: Sequence[Turn]) -> None:
    """Raise `PromptError` for more text than one request may have."""
    length = sum(len(turn.question) + len(turn.answer or "") for turn in turns)
    if length > MAX_TEXT:
        raise PromptError(f"The texts have {length:,} characters, and a request has at most {MAX_TEXT:,}. Send less.")
