"""Draw an explanation: the image, the map of each word over it, and the deletion curve (matplotlib, extra `[eval]`)."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from ..errors import UsageError, require_extra
from ..files.atomic import write_file
from ..preprocessing.prompt import CHINESE
from ..reporting.plots import INK, WIDTH, Theme, style
from .explanation import Explanation, WordMap, describe_deletion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, MOST_WORDS = 4, 15
"""Images in a row, and words that are drawn."""
SHOWN_SIDE = 336
"""Pixels at which the image is drawn."""
LONGEST_TITLE, LONGEST_WORD = 90, 18
HEAT, OPACITY = "inferno", 0.6
WARNING = "#d55e00"
SUFFIXES = (".png", ".svg")
TEXTS = {
    "en": {
        "image": "image",
        "whole": "whole answer",
        "hidden": "hidden part of the image",
        "score": "log probability per token",
        "attended": "most attended patches first",
        "random": "random order",
        "left": "{count} more words are not drawn",
    },
    "zh": {
        "image": "图片",
        "whole": "整个回答",
        "hidden": "图片中被遮挡的比例",
        "score": "每个 token 的对数概率",
        "attended": "先遮挡关注最多的图像块",
        "random": "随机顺序",
        "left": "另有 {count} 个词未画出",
    },
}


def check_drawing(path: Path) -> None:
    """Raise `UsageError` if matplotlib is missing, or a drawing cannot be at `path`; imports nothing heavy."""
    require_extra("eval", "A drawing of an explanation", "matplotlib")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is neither .png nor .svg. Name the drawing for example explanation.png.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{path} cannot be written: its folder does not exist, or it is one. Name a file in a folder.")


def draw_explanation(explanation: Explanation, path: Path, theme: Theme = "light") -> None:
    """Write the drawing of an explanation as .png or .svg.

    Raises:
        UsageError: matplotlib is missing, the explanation has no image, or the file cannot be written.
    """
    check_drawing(path)
    if explanation.image is None:
        raise UsageError("This explanation was made without its image. Make it with VisualGLM.explain to draw it.")
    import matplotlib
    from matplotlib.figure import Figure

    shown = explanation.words[:MOST_WORDS]
    single = len(explanation.words) == 1 and explanation.words[0].tokens == explanation.explained.tokens
    panels = [explanation.explained] if single or not shown else [explanation.explained, *shown]
    rows = -(-(1 + len(panels)) // COLUMNS)
    content = io.BytesIO()
    with matplotlib.rc_context(style(theme)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a rare character is drawn as a box
        figure = Figure(figsize=(WIDTH, 2.0 * rows + 2.9), layout="constrained")
        grid = figure.add_gridspec(rows + 1, COLUMNS, height_ratios=[2.0] * rows + [2.2])
        _draw_maps(figure, grid, explanation, explanation.image.resize((SHOWN_SIDE, SHOWN_SIDE)), panels)
        _draw_curve(figure.add_subplot(grid[rows, :]), explanation, theme)
        left = len(explanation.words) - len(shown)
        _set_title(figure, explanation, left)
        figure.savefig(content, format=path.suffix[1:].lower(), dpi=110)
    write_file(path, content.getvalue())


def overlay_map(image: Image.Image, word: WordMap) -> Image.Image:
    """Lay a map over a grey copy of an image, in the colours of the drawing (matplotlib)."""
    from matplotlib import colormaps

    weights = (word.map / word.map.max().clamp(min=1e-12)).float().numpy()
    smooth = Image.fromarray(weights).resize(image.size, Image.Resampling.BILINEAR)
    heat = Image.fromarray(colormaps[HEAT](np.asarray(smooth), bytes=True)[..., :3])
    return Image.blend(image.convert("L").convert("RGB"), heat, OPACITY)


def _language(explanation: Explanation) -> Literal["zh", "en"]:
    return "zh" if CHINESE.search(explanation.question) else "en"


def _shorten(text: str, longest: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else f"{flat[: longest - 1]}…"


def _set_title(figure: Figure, explanation: Explanation, left: int) -> None:
    lines = [_shorten(explanation.question, LONGEST_TITLE), _shorten(explanation.answer, LONGEST_TITLE)]
    if left:
        lines.append(TEXTS[_language(explanation)]["left"].format(count=left))
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)


def _draw_maps(figure: Figure, grid: Any, explanation: Explanation, image: Image.Image, panels: list[WordMap]) -> None:
    """Draw the image, then each map over it in grey; a colour means the same weight in all of them."""
    texts = TEXTS[_language(explanation)]
    first = figure.add_subplot(grid[0, 0])
    first.imshow(image)
    _finish_panel(first, texts["image"])
    strongest = max(float(panel.map.max()) for panel in panels)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(grid[divmod(number, COLUMNS)])
        axes.imshow(image.convert("L"), cmap="gray", extent=(0, 1, 1, 0))
        axes.imshow(
            panel.map.numpy(),
            cmap=HEAT,
            alpha=OPACITY,
            vmin=0,
            vmax=strongest,
            extent=(0, 1, 1, 0),
            interpolation="bilinear",
        )
        whole = panel.tokens == explanation.explained.tokens and panel.text == explanation.answer
        _finish_panel(axes, texts["whole"] if whole else panel.text)


def _finish_panel(axes: Axes, title: str) -> None:
    axes.set_axis_off()
    axes.set_title(_shorten(title, LONGEST_WORD), fontsize=10, parse_math=False)


def _draw_curve(axes: Axes, explanation: Explanation, theme: Theme) -> None:
    curve, texts = explanation.deletion, TEXTS[_language(explanation)]
    for number, values in enumerate(curve.random):
        axes.plot(curve.fractions, values, ":", color=INK[theme][1], alpha=0.5, label="" if number else texts["random"])
    axes.plot(curve.fractions, curve.attended, "-o", markersize=4, label=texts["attended"])
    axes.set_xlabel(texts["hidden"])
    axes.set_ylabel(texts["score"])
    found = describe_deletion(explanation).replace("; ", ";\n").replace("；", "；\n")
    colour = INK[theme][1] if explanation.exceeds_chance else WARNING
    axes.set_title(found, fontsize=9, loc="left", color=colour, parse_math=False)
    axes.legend(fontsize=9)
