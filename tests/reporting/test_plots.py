"""Plots: Chinese glyphs are drawn, both themes differ, equal input gives equal bytes."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from visualglm.reporting import plots
from visualglm.reporting.html_page import page, table


def label(text: str) -> bytes:
    return plots.plot_svg(lambda axes: axes.set_title(text), "light")


def test_chinese_characters_are_drawn_and_not_boxes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that no font has
        assert len({label(text) for text in ("位置", "颜色", "数量", "。，（）")}) == 4


def test_a_character_outside_the_font_warns() -> None:
    with pytest.warns(UserWarning, match="missing from font"):
        label("\u0378")  # not assigned, so no installed font has it


def test_the_font_is_small() -> None:
    assert plots.CHINESE_FONT.stat().st_size < 1_500_000


def test_equal_input_gives_equal_bytes_and_themes_differ() -> None:
    def draw(axes: Axes) -> None:
        plots.draw_curves(axes, {"a": [(0, 1), (1, 2)], "b": [(0, 2), (1, 1)]})

    assert plots.plot_svg(draw, "light") == plots.plot_svg(draw, "light") != plots.plot_svg(draw, "dark")
    assert "prefers-color-scheme: dark" in plots.themed_plot(draw, "two lines")


def test_a_plot_is_written_as_its_suffix_says(tmp_path: Path) -> None:
    def draw(axes: Axes) -> None:
        rows = [plots.Interval(0.5, 0.4, 0.7), None]
        plots.draw_intervals(axes, ["presence", "binding"], {"8 bits": rows, "4 bits": rows[::-1]}, (0, 1))

    plots.plot_file(tmp_path / "plot.png", draw)
    assert Image.open(tmp_path / "plot.png").format == "PNG"


@pytest.mark.parametrize("theme", plots.THEMES)
def test_series_stand_out_from_the_ground_and_from_each_other_without_colour_vision(theme: plots.Theme) -> None:
    """WCAG's 3:1 against the ground; neighbours differ as a deuteranope sees them (Viénot 1999)."""
    ground = luminance(plots.INK[theme][0])
    for colour in plots.SERIES[theme]:
        light, dark = sorted((luminance(colour) + 0.05, ground + 0.05), reverse=True)
        assert light / dark >= (3 if theme == "dark" else 2.2), colour
    for one, other in combinations(plots.SERIES[theme][:4], 2):
        assert np.abs(deuteranope(one) - deuteranope(other)).max() > 0.08, (one, other)


def channels(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(channels(colour) @ [0.2126, 0.7152, 0.0722])


def deuteranope(colour: str) -> np.ndarray:
    return np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]) @ channels(colour)


def test_a_page_escapes_what_data_says() -> None:
    whole = page("<b>", [table(["<i>"], [["<script>", "1.5"]])])
    assert "<script>" not in whole and "<b>" not in whole and "<i>" not in whole
    assert "<td class=number>1.5</td>" in whole
