"""One question about one picture, the answer streamed to stdout."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ImageError, visible
from . import options

if TYPE_CHECKING:
    from PIL.Image import Image


@options.with_flags
def ask(
    image: Annotated[str, typer.Argument(help="The picture's path; - reads it from stdin.")],
    flags: options.Flags,
    question: Annotated[
        str | None, typer.Argument(help="Chinese or English; without one, describes the picture.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """One answer about a picture, streamed. / 就一张图片回答一个问题。"""
    from ..conversation import QUESTIONS

    sampling = flags.sampling()
    picture = opened_picture(image, flags.upstream_images)
    conversation = flags.open_model().conversation(picture, flags.language)
    question = question if question is not None else QUESTIONS[options.spoken_language(flags.language)]
    for piece in conversation.stream(question, **sampling):
        if not as_json:
            print(visible(piece, kept="\n\t") if sys.stdout.isatty() else piece, end="", flush=True)
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
    from ..preprocessing.image_files import read_stream
    from ..preprocessing.images import open_image

    if image != "-":
        return open_image(image, upstream=upstream)
    piped = read_stream(sys.stdin.buffer, "stdin") if sys.stdin is not None else b""
    if not piped:
        raise ImageError("nothing came through stdin: pipe a picture into it, as in `cat photo.jpg | visualglm ask -`.")
    return open_image(piped, upstream=upstream)
