"""Embed an image in an HTML page, so that a report is a single file."""

from __future__ import annotations

import base64
import io

from PIL import Image


def image_tag(image: Image.Image, size: int, colours: int | None = None) -> str:
    """Return an `img` element with a PNG of at most `size` pixels a side; `colours` limits its palette."""
    small = image.copy()
    small.thumbnail((size, size))
    if colours is not None:
        small = small.quantize(colours)
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
