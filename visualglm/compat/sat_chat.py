"""Upstream's `chat` function, with its signature and return values.

In: image, model, tokenizer and question. Out: `(response, history, cache_image)`. `cache_image` has the image's pixels,
[1, 3, H, W] in float16; pass it to the next call instead of opening the image again. The prompt is sat's (问/答, or Q/A
with `english`), and sampling follows sat's `BaseStrategy`; answers are generated as in every other interface. Source:
upstream's `model/chat.py`.

Differences on purpose: an answer is not cut at 答： or A:, text in a question never opens a file, and a URL is fetched
only with a function that the caller passes. For image placeholders sat uses the pad id, and this model a separate id;
the results are equal.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ImageError, UsageError
from ..inference.start_reply import start_reply
from ..preprocessing.chinese_token_filter import chinese_slices
from ..preprocessing.image_bytes import URL
from ..preprocessing.images import ImageSource, VisualGLMImageProcessor
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.prompt import Language, Turn, describe_dropped_turns
from ..preprocessing.tokenizer import ChatGLMTokenizer

PIXELS = torch.float16
"""sat casts every image to this dtype, whatever the compute dtype."""
CHINESE_OF_6B = slice(63823, 130000)
"""The ids that upstream's command line forbids for English answers."""


@torch.no_grad()
def chat(
    image_path: ImageSource | None,
    model: Any,
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: Iterable[tuple[str, str]] | None = None,
    image: ImageSource | Tensor | None = None,
    max_length: int = 1024,
    top_p: float = 0.7,
    top_k: int = 30,
    temperature: float = 0.95,
    repetition_penalty: float = 1.2,
    invalid_slices: Sequence[slice] = (),
    english: bool = False,
    *,
    open_url: Callable[[str], ImageSource] | None = None,
    upstream_images: bool = False,
    seed: int | None = None,
) -> tuple[str, list[tuple[str, str]], Tensor | None]:
    """Answer `query`; return the answer, the history with this turn, and the pixels for the next call.

    Args:
        image_path: the image; with None or "", `image` is used.
        image: `cache_image` of the previous call, a PIL image, or any other image source; None for no image.
        max_length: tokens of the prompt (image placeholders included) and the answer together.
        top_p: 0 means greedy decoding. Used only if `top_k` is above 0, as in sat.
        repetition_penalty: sat's rule: only generated ids count, and every logit is divided.
        invalid_slices: ids that are never generated. The 6B's Chinese range, slice(63823, 130000), is translated to
            the Chinese ids of a smaller vocabulary.
        english: Q/A instead of 问/答.
        open_url: function that fetches an image URL; without it URLs are rejected.
        upstream_images: ignore EXIF and drop transparency, as upstream does.
        seed: seed of the sampling.

    Raises:
        ImageError: the image cannot be opened, or is a URL and `open_url` is None.
        PromptError: the question alone is too long for the model.
        UsageError: both `image_path` and `image` are given.
    """
    processor = VisualGLMProcessor.for_config(model.config, tokenizer)
    pixels = _load_pixels(image_path, image, processor.image_processor, open_url, upstream_images)
    cache_image = None if pixels is None else pixels.to(model.device, PIXELS)
    past = [(str(question), str(answer)) for question, answer in history or []]
    embeds = None if cache_image is None else model.encode_images(cache_image.to(model.dtype))
    images = 0 if embeds is None else 1
    questions = [*past, (query, None)]
    turns = [Turn(question, answer, 0 if index else images) for index, (question, answer) in enumerate(questions)]
    sampling = {"top_p": top_p, "top_k": top_k, "temperature": temperature, "repetition_penalty": repetition_penalty}
    limits = {"max_length": max_length, "invalid_slices": _translate_slices(tokenizer, invalid_slices), "seed": seed}
    language: Language = "en" if english else "zh"
    reply, dropped = start_reply(model, processor, turns, embeds, language, preset="sat", **sampling, **limits)
    if dropped:
        warnings.warn(describe_dropped_turns(dropped), stacklevel=2)
    with reply:
        for _ in reply:
            pass
    return reply.text, [*past, (query, reply.text)], cache_image


def _translate_slices(tokenizer: ChatGLMTokenizer, slices: Sequence[slice]) -> list[slice]:
    """Replace the 6B's Chinese range by that of a smaller vocabulary."""
    if tokenizer.vocab_size > CHINESE_OF_6B.stop:
        return list(slices)
    return [ids for given in slices for ids in (chinese_slices(tokenizer) if given == CHINESE_OF_6B else [given])]


def _load_pixels(
    image_path: ImageSource | None,
    image: ImageSource | Tensor | None,
    images: VisualGLMImageProcessor,
    open_url: Callable[[str], ImageSource] | None,
    upstream: bool,
) -> Tensor | None:
    """Return the image's pixels [1, 3, H, W], or None if there is no image."""
    has_path = image_path is not None and not (isinstance(image_path, str) and not image_path.strip())
    if has_path and image is not None:
        raise UsageError("Both image_path and image are given. To show a new image, pass only image_path.")
    source = image_path if has_path else image
    if source is None:
        return None
    if isinstance(source, Tensor) and source.dim() == 4:
        return _check_shape(source, images.size["height"])
    if isinstance(source, str) and URL.match(source.strip()):
        source = _fetch(source.strip(), open_url)
    return images.read(source, upstream)  # type: ignore[arg-type]


def _check_shape(pixels: Tensor, size: int) -> Tensor:
    if tuple(pixels.shape) != (1, 3, size, size):
        raise ImageError(
            f"The tensor has shape {list(pixels.shape)}, but this model needs pixels of [1, 3, {size}, {size}]. Pass "
            "the third value that chat returned, or an image."
        )
    return pixels


def _fetch(url: str, open_url: Callable[[str], ImageSource] | None) -> ImageSource:
    if open_url is None:
        raise ImageError(
            f"{url[:100]} is a URL, and URLs are not fetched by default. Pass a function that fetches as open_url=, "
            "or download the image and pass the file."
        )
    return open_url(url)
