"""`visualglm ask`: stream one answer about one image to stdout."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from ..errors import ImageError, visible
from . import options
from .model_name import print_notice, served_name

if TYPE_CHECKING:
    from PIL.Image import Image


@options.with_flags
def ask(
    image: options.ImageArgument,
    flags: options.Flags,
    question: options.OptionalQuestion = None,
    as_json: options.Json = False,
) -> None:
    """Answer a question about an image. / 就一张图片回答一个问题。

    Example: visualglm ask photo.jpg "What is in this image?"
    """
    sampling = flags.sampling()
    opened = open_image_argument(image, flags.upstream_images)
    conversation = flags.open_model().conversation(opened, flags.language)
    question = question if question is not None else flags.default_question()
    for piece in conversation.stream(question, **sampling):
        if not as_json:
            print(visible(piece, kept="\n\t") if sys.stdout.isatty() else piece, end="", flush=True)
    if as_json and conversation.answer is not None:
        record = {
            "image": image,
            "question": question,
            "model": served_name(flags.model),
            **conversation.answer.to_dict(),
        }
        print(json.dumps(record, ensure_ascii=False))
    elif not as_json:
        print()
    print_notice(flags)


def open_image_argument(image: str, upstream: bool) -> Image:
    """Open the image in RGB. This happens before torch is imported, so that a wrong path fails at once.

    Raises:
        ImageError: it cannot be opened, or stdin is empty.
    """
    from ..preprocessing.image_bytes import read_path, read_stream

    if image != "-":
        content, name = read_path(image), image
    else:
        content = read_stream(sys.stdin.buffer, "stdin") if sys.stdin is not None else b""
        name = f"The image ({len(content)} bytes)"
    if not content and image == "-":
        raise ImageError("stdin is empty. Pipe an image into it, for example: cat photo.jpg | visualglm ask -")
    from ..preprocessing.image_decoding import decode_image

    return decode_image(content, name, upstream)
