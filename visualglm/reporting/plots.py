"""Plots in one look: light and dark, colour-blind safe, with Chinese glyphs from a packaged font.

    draw: Callable[[Axes], None] -- themed_plot --> an HTML <picture> with both themes, or plot_file --> a file

`draw_intervals` and `draw_curves` draw what most reports need. matplotlib (the extra `[eval]` or `[train]`) is imported
when something is drawn.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import require_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
CHINESE_FONT = Path(__file__).with_name("fonts") / "NotoSansSC-subset.otf"
"""Noto Sans CJK SC, reduced to GB 2312 level 1 and the characters of this package; SIL Open Font License 1.1."""
SERIES: dict[Theme, tuple[str, ...]] = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a6200", "#56b4e9"),
    "dark": ("#56b4e9", "#e69f00", "#2fc99b", "#e3a1c6", "#f0e442", "#9ad1f2"),
}
"""Colours of the first, second, ... series: Okabe and Ito's palette, darkened or lightened for contrast."""
INK: dict[Theme, tuple[str, str, str]] = {
    "light": ("#ffffff", "#1f2937", "#d1d5db"),
    "dark": ("#16181d", "#e5e7eb", "#3f4653"),
}
"""Background, text, and grid."""
MARKERS = ("o", "s", "D", "^", "v", "P")
DASHES = ("-", "--", "-.", ":")
WIDTH = 7.2
"""Inches of a plot."""


@dataclass(frozen=True)
class Interval:
    """A value between the ends of its confidence interval."""

    value: float
    low: float
    high: float


@cache
def chinese_family() -> str:
    """Register the packaged font with matplotlib; return its family name."""
    from matplotlib.font_manager import FontProperties, fontManager

    fontManager.addfont(CHINESE_FONT)
    return FontProperties(fname=CHINESE_FONT).get_name()


def style(theme: Theme) -> dict[str, Any]:
    """Return matplotlib's settings of a theme."""
    from cycler import cycler

    ground, text, grid = INK[theme]
    return {
        "font.family": ["DejaVu Sans", chinese_family()],
        "font.size": 10,
        "svg.fonttype": "path",
        "svg.hashsalt": "visualglm",
        "figure.facecolor": ground,
        "axes.facecolor": ground,
        "savefig.facecolor": ground,
        "text.color": text,
        "axes.labelcolor": text,
        "axes.edgecolor": grid,
        "xtick.color": text,
        "ytick.color": text,
        "grid.color": grid,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "axes.prop_cycle": cycler(color=SERIES[theme]),
    }


def plot_svg(draw: Callable[[Axes], None], theme: Theme, height: float = 3.0) -> bytes:
    """Draw one plot of `WIDTH` by `height` inches as SVG; equal input gives equal bytes."""
    return _render(draw, theme, height, "svg")


def plot_file(path: Path, draw: Callable[[Axes], None], theme: Theme = "light", height: float = 3.0) -> None:
    """Write one plot; the suffix of `path` (.svg or .png) is its format."""
    path.write_bytes(_render(draw, theme, height, path.suffix[1:]))


def _render(draw: Callable[[Axes], None], theme: Theme, height: float, kind: str) -> bytes:
    require_extra("eval", "A plot", "matplotlib")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style(theme)):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()


def themed_plot(draw: Callable[[Axes], None], description: str, height: float = 3.0) -> str:
    """Draw a plot as an HTML <picture> that follows the reader's theme; `description` is its alternative text."""
    light, dark = (
        f"data:image/svg+xml;base64,{base64.b64encode(plot_svg(draw, theme, height)).decode()}" for theme in THEMES
    )
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img class="plot" alt="{html.escape(description)}" src="{light}"></picture>'
    )


def draw_intervals(
    axes: Axes, labels: Sequence[str], series: Mapping[str, Sequence[Interval | None]], limits: tuple[float, float]
) -> None:
    """Draw rows of points with their intervals, the first label at the top; None leaves a gap."""
    spread = 0.5 / max(1, len(series))
    for number, (name, intervals) in enumerate(series.items()):
        offset = (number - (len(series) - 1) / 2) * spread
        shown = [(row + offset, one) for row, one in enumerate(intervals) if one is not None]
        values = [one.value for _, one in shown]
        errors = [[one.value - one.low for _, one in shown], [one.high - one.value for _, one in shown]]
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(values, [row for row, _ in shown], xerr=errors, fmt=marker, capsize=3, label=name)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(*limits)
    axes.grid(axis="y", visible=False)
    if len(series) > 1:
        axes.figure.legend(loc="outside upper right", ncols=len(series))


def draw_curves(
    axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str = "", y_label: str = ""
) -> None:
    """Draw lines through (x, y) points, told apart by colour and by dashes."""
    for number, (name, points) in enumerate(curves.items()):
        if points:
            marker = "o" if len(points) == 1 else ""
            axes.plot(*zip(*points, strict=True), DASHES[number % len(DASHES)] + marker, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if len(curves) > 1:
        axes.legend()
