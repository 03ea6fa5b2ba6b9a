"""commands/ask: one question about one picture, the answer streamed to stdout."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ImageError
from . import options

if TYPE_CHECKING:
    from PIL.Image import Image


def ask(
    image: Annotated[str, typer.Argument(help="The picture's path; - reads it from stdin.")],
    question: Annotated[
        str | None, typer.Argument(help="Chinese or English; without one, describes the picture.")
    ] = None,
    model: options.Model = None,
    tokenizer: options.Tokenizer = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    language: options.LanguageOption = "auto",
    greedy: options.Greedy = False,
    seed: options.Seed = None,
    preset: options.PresetOption = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    repetition_penalty: options.RepetitionPenalty = None,
    max_new_tokens: options.MaxNewTokens = None,
    upstream_images: options.UpstreamImages = False,
    as_json: options.Json = False,
) -> None:
    """One answer about a picture, streamed. / 就一张图片回答一个问题。"""
    from ..conversation import QUESTIONS

    arguments = options.sampling(
        greedy,
        seed=seed,
        preset=preset,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
    )
    picture = opened_picture(image, upstream_images)
    conversation = options.open_model(model, tokenizer, device, dtype, upstream_images).conversation(picture, language)
    question = question if question is not None else QUESTIONS[options.spoken_language(language)]
    for piece in conversation.stream(question, **arguments):
        if not as_json:
            print(piece, end="", flush=True)
    if as_json and conversation.answer is not None:
        record = {"image": image, "question": question, **conversation.answer.to_dict()}
        print(json.dumps(record, ensure_ascii=False))
    elif not as_json:
        print()


def opened_picture(image: str, upstream: bool) -> Image:
    """The picture in RGB, before a model is loaded for it: a wrong path should not cost half a minute.

    Raises:
        ImageError: it cannot be opened, or nothing came through stdin.
    """
    from ..images import open_image

    if image != "-":
        return open_image(image, upstream=upstream)
    piped = sys.stdin.buffer.read() if sys.stdin is not None else b""
    if not piped:
        raise ImageError("nothing came through stdin: pipe a picture into it, as in `cat photo.jpg | visualglm ask -`.")
    return open_image(piped, upstream=upstream)
