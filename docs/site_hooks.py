"""Hooks of mkdocs: links that the site has no page for.

A link to a file of the repository becomes its path. The API reference exists once, in English.
"""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./){2}([^)#]+)(?:#[^)]*)?\)")
ENGLISH = re.compile(r"\[([^\]]+)\]\(\.\./en/(\w+)\.md\)")


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Replace `[text](../../path)` by text and path, and `[text](../en/page.md)` by a link inside the site."""
    return ENGLISH.sub(r'<a href="../\2.html">\1</a>', OUTSIDE.sub(r"\1 (`\2`)", markdown))
