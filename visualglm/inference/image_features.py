"""Encode an image once: its `pixel_values` [1, 3, H, W], and the vectors of its placeholder tokens."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ImageError
from ..network.configuration import VisualGLMConfig
from ..preprocessing.image_pool import Ending, ImagePool
from ..preprocessing.images import ImageSource


class ImageEncodingModel(Protocol):
    """A model that encodes images, and the name of its active adapter."""

    config: VisualGLMConfig
    adapter_at_work: str | None

    @property
    def device(self) -> torch.device: ...

    def encode_images(self, pixel_values: Tensor) -> Tensor: ...


class ImageReadingModel(Protocol):
    """A model with its image processor, as `VisualGLM` is."""

    upstream_images: bool

    @property
    def model(self) -> ImageEncodingModel: ...

    def pixel_values(self, image: ImageSource) -> Tensor: ...


class ImageFeatures:
    """An image in a dialogue: its pixels, and its embeddings for the model and adapter that asked last."""

    def __init__(self, pixel_values: Tensor) -> None:
        self.pixel_values = pixel_values
        self.image_embeds: Tensor | None = None
        self._encoder: Any = None

    def embeds(self, model: ImageEncodingModel) -> Tensor:
        """Return the embeddings [1, image_length, hidden]; compute them again if the model or adapter changed.

        Raises:
            ImageError: the model reads images of another size.
        """
        encoder = weakref.ref(model), model.adapter_at_work
        if self.image_embeds is None or self._encoder != encoder:
            size, wanted = self.pixel_values.shape[-1], model.config.vision.image_size
            if size != wanted:
                raise ImageError(
                    f"The image was read at {size} pixels, and this model reads {wanted}. Show it again, to this one."
                )
            self.image_embeds, self._encoder = encode_pixels(model, self.pixel_values), encoder
        return self.image_embeds

    def __getstate__(self) -> dict[str, Any]:
        """Drop the embeddings when copying: they belong to a model that is not copied."""
        return {"pixel_values": self.pixel_values, "image_embeds": None, "_encoder": None}


@torch.inference_mode(False)
@torch.no_grad()
def encode_pixels(model: ImageEncodingModel, pixel_values: Tensor) -> Tensor:
    """Encode `pixel_values` [P, 3, H, W] into the embeddings of their placeholder tokens [P, image_length, hidden]."""
    return model.encode_images(pixel_values.to(model.device))


def decode_pixels(model: ImageReadingModel, pool: ImagePool, content: bytes, ending: Ending | None = None) -> Tensor:
    """Decode an image file in a process of the pool, into `pixel_values` [1, 3, H, W].

    Raises:
        ImageError: it is broken or of an unknown format, or takes too much memory or time.
        EndedError: `ending` or the pool ended it.
    """
    side = model.model.config.vision.image_size
    return model.pixel_values(pool.decode(content, (side, side), model.upstream_images, ending))
