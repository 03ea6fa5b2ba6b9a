"""Read an Iconify icon set (JSON) as SVG files."""

from __future__ import annotations

import json
from typing import Any


def read_icons(content: bytes) -> dict[str, bytes]:
    """Map `name.svg` to the SVG's bytes, for every icon that is not hidden; aliases are skipped."""
    icons = json.loads(content)
    return {
        f"{name}.svg": _svg(icon, icons).encode()
        for name, icon in sorted(icons["icons"].items())
        if not icon.get("hidden", False)
    }


def _svg(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    box = {edge: icon.get(edge, icons.get(edge, 0)) for edge in ("left", "top")}
    size = {side: icon.get(side, icons.get(side, 16)) for side in ("width", "height")}
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box["left"]} {box["top"]} {size["width"]} {size["height"]}">{icon["body"]}</svg>'
    )
