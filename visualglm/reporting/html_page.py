"""Self-contained HTML pages: no scripts, links or outside files; light and dark.

Callers escape what comes from data or models with `html.escape`; `table` does so for plain cells.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

THUMBNAIL = 160
"""Largest side of an embedded image, in pixels."""
STYLE = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1f2937;--line:#d1d5db;--soft:#f3f4f6;--right:#e3f4ec;--wrong:#fbe9e2}
@media (prefers-color-scheme:dark){
:root{--ground:#16181d;--ink:#e5e7eb;--line:#3f4653;--soft:#22262e;--right:#12372a;--wrong:#45251a}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
background:var(--ground);color:var(--ink)}
h1,h2{line-height:1.2}table{border-collapse:collapse;max-width:100%}.wide{overflow-x:auto}
td,th{border:1px solid var(--line);padding:.35rem .6rem;vertical-align:top;text-align:left;overflow-wrap:break-word}
th{background:var(--soft)}td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.right{background:var(--right)}.wrong{background:var(--wrong)}.note{border-left:4px solid var(--line);padding-left:1rem}
img{max-width:100%}img.plot{width:100%;height:auto}
"""


def page(title: str, pieces: Iterable[str], language: str = "en") -> str:
    """Build a page from pieces of HTML."""
    head = (
        f'<!doctype html>\n<html lang="{language}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
    )
    return "\n".join([head, f"<h1>{html.escape(title)}</h1>", *pieces, "</body></html>\n"])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Build a table of plain texts; cells that are numbers are aligned to the right."""
    first = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{first}</tr>{body}</table></div>'


def _cell(text: str) -> str:
    is_number = text[:1].isdigit() or (text[:1] in "+-−" and text[1:2].isdigit())
    return f"<td{' class=number' if is_number else ''}>{html.escape(text)}</td>"


def thumbnail(image: Image.Image, description: str = "", size: int = THUMBNAIL, colours: int | None = None) -> str:
    """Embed a copy of an image of at most `size` pixels a side; `colours` limits its palette."""
    small = image.convert("RGB")
    small.thumbnail((size, size))
    if colours is not None:
        small = small.quantize(colours)
    content = io.BytesIO()
    small.save(content, "PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'
