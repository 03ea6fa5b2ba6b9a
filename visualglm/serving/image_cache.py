"""A request's images, and the vectors of those seen before, by content.

    bytes -- sha256, adapter --> known: its vectors; new: pixel_values, which the engine encodes when it answers

An adapter may change the image's road, so each has vectors of its own.

Decoding happens in a process of its own while the caller's thread waits, so that a broken image is refused before it
waits in the queue, and a hostile one harms nobody. Knows nothing about HTTP.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from ..conversation import VisualGLM
from ..inference.image_features import encode_pixels
from ..preprocessing.image_pool import Ending, ImagePool


@dataclass(frozen=True)
class RequestImage:
    """`key` is its content and the adapter; there is one of `pixel_values` [1, 3, H, W] and `embeds`
    [1, image_length, hidden]."""

    key: str
    pixel_values: Tensor | None = None
    embeds: Tensor | None = None


class RequestImageCache:
    """The vectors of the `size` images used last; `pool` decodes new ones."""

    def __init__(self, model: VisualGLM, size: int, pool: ImagePool) -> None:
        self.model = model
        self.size = size
        self.pool = pool
        self.hits = 0
        self.misses = 0
        self._known: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def look_up(self, content: bytes, adapter: str | None = None, ending: Ending | None = None) -> RequestImage:
        """A image that this adapter (None: the bare model) knows already, or decoded now, unless `ending` ends it.

        Raises:
            ImageError: it cannot be decoded, or takes too much memory or time.
            EndedError: `ending`, or the end of the server, ended it.
        """
        key = f"{hashlib.sha256(content).hexdigest()} {adapter or ''}"
        known = self._recall(key)
        if known is not None:
            return RequestImage(key, embeds=known)
        side = self.model.model.config.vision.image_size
        pixels = self.pool.decode(content, (side, side), self.model.upstream_images, ending)
        return RequestImage(key, self.model.pixel_values(pixels))

    def encode(self, image: RequestImage) -> Tensor:
        """The image's vectors [1, image_length, hidden]; each is encoded alone, so they depend on nothing else."""
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
