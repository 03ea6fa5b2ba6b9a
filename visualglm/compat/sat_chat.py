"""Upstream's `chat` function, with its signature and return values.

A picture, a model, a tokenizer and a question go in, `(response, history, cache_image)` comes out; `cache_image` is the
picture's pixels, [1, 3, H, W] in float16, and spares reading it again. The prompt is sat's (问/答, or Q/A with
`english`), the sampling arithmetic its `BaseStrategy`'s; the answer takes the road of all answers. Source: upstream's
`model/chat.py`. Different on purpose: an answer that contains 答： or A: is not cut there, text never opens a file, and
a URL is fetched only by what the caller hands over. sat puts the pad id into the picture's slots where this model has
an id of its own; no number depends on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ImageError, UsageError
from ..inference.prompting import start_reply
from ..preprocessing.chinese_token_filter import chinese_slices
from ..preprocessing.images import URL, ImageSource, VisualGLMImageProcessor
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.prompt import Language, Turn
from ..preprocessing.tokenizer import ChatGLMTokenizer

PIXELS = torch.float16
"""What sat casts every picture to, whatever the model computes in."""
CHINESE_OF_6B = slice(63823, 130000)
"""What upstream's command line forbids for English answers."""


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
    """Answers `query`; returns the answer, the history with this turn, and the picture for the next one.

    Args:
        image_path: the picture; None or "" goes on with `image`, or without a picture.
        image: what the turn before returned as `cache_image`, or a PIL picture, or whatever opens.
        max_length: tokens of the prompt (the picture's slots included) and the answer together.
        top_p: 0 takes the likeliest token. It counts only where `top_k` is above 0, as in sat.
        repetition_penalty: sat's rule: only generated ids count, and every logit is divided.
        invalid_slices: ids that are never generated. The 6B's Chinese range, slice(63823, 130000), means that of any
            other vocabulary, too.
        english: Q/A instead of 问/答.
        open_url: fetches a picture's URL; without it a URL is refused.
        upstream_images: ignore EXIF and drop transparency, as upstream did.
        seed: the same seed gives the same answer.

    Raises:
        ImageError: the picture cannot be opened, or is a URL and `open_url` was not given.
        PromptError: the question alone does not fit into the model.
        UsageError: both `image_path` and `image` were given.
    """
    processor = VisualGLMProcessor.for_config(model.config, tokenizer)
    pixels = _picture(image_path, image, processor.image_processor, open_url, upstream_images)
    cache_image = None if pixels is None else pixels.to(model.device, PIXELS)
    past = [(str(question), str(answer)) for question, answer in history or []]
    embeds = None if cache_image is None else model.encode_images(cache_image.to(model.dtype))
    pictures = 0 if embeds is None else 1
    questions = [*past, (query, None)]
    turns = [Turn(question, answer, 0 if index else pictures) for index, (question, answer) in enumerate(questions)]
    sampling = {"top_p": top_p, "top_k": top_k, "temperature": temperature, "repetition_penalty": repetition_penalty}
    limits = {"max_length": max_length, "invalid_slices": _ids(tokenizer, invalid_slices), "seed": seed}
    language: Language = "en" if english else "zh"
    reply, dropped = start_reply(model, processor, turns, embeds, language, preset="sat", **sampling, **limits)
    if dropped:
        warnings.warn(f"the dialogue is too long: its {dropped} oldest turns stay out of the prompt", stacklevel=2)
    with reply:
        for _ in reply:
            pass
    return reply.text, [*past, (query, reply.text)], cache_image


def _ids(tokenizer: ChatGLMTokenizer, slices: Sequence[slice]) -> list[slice]:
    if tokenizer.vocab_size > CHINESE_OF_6B.stop:
        return list(slices)
    return [ids for given in slices for ids in (chinese_slices(tokenizer) if given == CHINESE_OF_6B else [given])]


def _picture(
    image_path: ImageSource | None,
    image: ImageSource | Tensor | None,
    images: VisualGLMImageProcessor,
    open_url: Callable[[str], ImageSource] | None,
    upstream: bool,
) -> Tensor | None:
    """The picture's pixels [1, 3, H, W], or None for a dialogue without one."""
    named = image_path is not None and not (isinstance(image_path, str) and not image_path.strip())
    if named and image is not None:
        raise UsageError("both image_path and image were given: leave image out to show a new picture.")
    source = image_path if named else image
    if source is None:
        return None
    if isinstance(source, Tensor) and source.dim() == 4:
        return _checked(source, images.size["height"])
    if isinstance(source, str) and URL.match(source.strip()):
        source = _fetched(source.strip(), open_url)
    return images.read(source, upstream)  # type: ignore[arg-type]


def _checked(pixels: Tensor, size: int) -> Tensor:
    if tuple(pixels.shape) != (1, 3, size, size):
        raise ImageError(
            f"a tensor of pixels is [1, 3, {size}, {size}] for this model, this one is {list(pixels.shape)}: give what "
            "chat returned as its third value, or a picture."
        )
    return pixels


def _fetched(url: str, open_url: Callable[[str], ImageSource] | None) -> ImageSource:
    if open_url is None:
        raise ImageError(
            f"{url[:100]} is a URL, and nothing is fetched unless you allow it: pass open_url=, a function that "
            "fetches, or download it and give the file."
        )
    return open_url(url)
