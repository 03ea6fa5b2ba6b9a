"""`visualglm explain`: which image patches each word of an answer rests on, and whether that holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import visible
from . import options
from .ask import open_image_argument
from .grouped_help import data_option, output_option
from .model_name import print_notice, served_name


@options.with_flags
def explain(
    image: options.ImageArgument,
    flags: options.Flags,
    question: options.OptionalQuestion = None,
    out: Annotated[
        Path | None, output_option("--output", "-o", metavar="FILE", help="Drawing to write, .png or .svg.")
    ] = None,
    as_json: options.Json = False,
    word: Annotated[
        str | None, data_option("--word", metavar="W", help="Explain this word of the answer. Default: every word.")
    ] = None,
    method: Annotated[
        Literal["rollout", "gradient"],
        data_option(metavar="rollout|gradient", help="Attention rollout, or attention weighted by gradients."),
    ] = "rollout",
    thorough: Annotated[
        bool, data_option("--thorough", help="A finer deletion curve with 20 random orders; takes much longer.")
    ] = False,
) -> None:
    """Show what each word of an answer rests on in the image. / 显示回答中每个词依据图片的哪些部分。

    Example: visualglm explain photo.jpg "What is in this image?" -o explanation.png
    """
    from ..explanation.drawing import check_drawing, draw_explanation
    from ..explanation.explanation import describe_deletion

    sampling = flags.sampling()
    if out is not None:
        check_drawing(out)
    opened = open_image_argument(image, flags.upstream_images)
    question = question if question is not None else flags.default_question()
    explanation = flags.open_model().explain(
        opened, question, flags.language, word=word, method=method, thorough=thorough, **sampling
    )
    if out is not None:
        draw_explanation(explanation, out)
    if as_json:
        record = {"image": image, "model": served_name(flags.model), **explanation.to_dict()}
        print(json.dumps(record, ensure_ascii=False))
    else:
        typer.echo(visible(explanation.answer, kept="\n\t"))
    typer.echo(describe_deletion(explanation), err=as_json)
    print_notice(flags)
