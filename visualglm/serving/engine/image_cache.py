"""Decode a request's images, and cache the embeddings of earlier ones by content.

    bytes -- sha256, adapter --> known: its embeddings; new: pixel_values, which the engine encodes when it answers

An adapter may change the image encoder, so each has its own embeddings. Images are decoded in a separate process while
the caller's thread waits, so a broken image is rejected before it waits in the queue, and a malicious one affects
nothing else.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from ...conversation import VisualGLM
from ...inference.image_features import decode_pixels, encode_pixels
from ...preprocessing.image_pool import Ending, ImagePool


@dataclass(frozen=True)
class RequestImage:
    """An image of a request: either `pixel_values` [1, 3, H, W] or `embeds` [1, image_length, hidden].

    `key` identifies its content and the adapter.
    """

    key: str
    pixel_values: Tensor | None = None
    embeds: Tensor | None = None


class RequestImageCache:
    """Cache of the embeddings of the `size` images used last; `pool` decodes new ones."""

    def __init__(self, model: VisualGLM, size: int, pool: ImagePool) -> None:
        self.model = model
        self.size = size
        self.pool = pool
        self.hits = 0
        self.misses = 0
        self._known: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def look_up(
        self, content: bytes, adapter: str | None = None, ending: Ending | None = None, with_pixels: bool = False
    ) -> RequestImage:
        """Return an image from the cache of this adapter (None: the base model), or decode it unless `ending` ends
        that. `with_pixels`: decode it in any case.

        Raises:
            ImageError: it cannot be decoded, or takes too much memory or time.
            EndedError: `ending`, or the end of the server, ended it.
        """
        key = f"{hashlib.sha256(content).hexdigest()} {adapter or ''}"
        known = self._recall(key)
        if known is not None and not with_pixels:
            return RequestImage(key, embeds=known)
        return RequestImage(key, decode_pixels(self.model, self.pool, content, ending))

    def encode(self, image: RequestImage) -> Tensor:
        """Return the image's embeddings [1, image_length, hidden]; each image is encoded alone."""
        known = image.embeds if image.embeds is not None else self._recall(image.key)
        if known is not None:
            self.hits += 1
            return known
        assert image.pixel_values is not None
        self.misses += 1
        embeds = encode_pixels(self.model.model, image.pixel_values)
        with self._lock:
            self._known[image.key] = embeds
            while len(self._known) > self.size:
                self._known.popitem(last=False)
        return embeds

    def _recall(self, key: str) -> Tensor | None:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)
