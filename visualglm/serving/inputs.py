"""serving/inputs: what a stranger gave as a picture -> bytes: a data URL, or a URL on an allowed host; never a path."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..errors import ImageError
from ..fetch import PictureFetcher
from ..images import data_url_bytes

MOST_PICTURES = 16
"""In one request; each takes as many tokens of the prompt as the model has slots."""


class PictureReader:
    """Reads sources; hosts are those of the fetcher."""

    def __init__(self, fetcher: PictureFetcher) -> None:
        self.fetcher = fetcher

    async def read_all(self, sources: Sequence[Any]) -> list[bytes]:
        """The bytes of every picture.

        Raises:
            ImageError: one of them may not, or cannot, be read, or there are too many.
        """
        refuse_too_many(sources)
        return [await asyncio.to_thread(self.read, source) for source in sources]

    def read(self, source: Any) -> bytes:
        """The bytes of one picture.

        Raises:
            ImageError: it may not, or cannot, be read.
        """
        if not isinstance(source, str):
            raise ImageError('A picture has no source: give image_url as {"url": "data:image/png;base64,..."}.')
        if source[:5].lower() == "data:":
            return data_url_bytes(source)
        if source[:5].lower() in ("http:", "https"):
            return self.fetcher(source)
        raise ImageError("A picture must be a data URL (data:image/png;base64,...), not a path or another URL.")


def refuse_too_many(sources: Sequence[Any]) -> None:
    """Raises `ImageError` for more pictures than one request may bring."""
    if len(sources) > MOST_PICTURES:
        raise ImageError(f"{len(sources)} pictures are too many for one request: send at most {MOST_PICTURES}.")
