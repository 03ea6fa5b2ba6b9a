"""Print the oldest supported versions, one requirement a line: the lower bounds of pyproject.toml.

    python tests/oldest_versions.py

`numpy>=1.26` becomes `numpy==1.26.*`. torch stays as constraints.txt pins it: an older CPU build is on no package
index.
The tools of the extra [dev] may be newer.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("serve", "json", "train", "qlora", "eval")


def oldest(requirement: str) -> str:
    """Turn a lower bound into that version."""
    name, bound = re.fullmatch(r"([\w.\[\]-]+)>=([\d.]+).*", requirement).groups()  # type: ignore[union-attr]
    return f"{name}=={bound if '.' in bound else f'{bound}.0'}.*"


def requirements() -> list[str]:
    """List each package once."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = (project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS))
    wanted = dict.fromkeys(line for group in groups for line in group if not line.startswith("torch>"))
    pinned = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    names = {re.split(r"[>\[]", line)[0] for line in wanted}
    tools = [line for line in project["optional-dependencies"]["dev"] if re.split(r"[>\[]", line)[0] not in names]
    return [*pinned, *map(oldest, wanted), *tools]


if __name__ == "__main__":
    print(*requirements(), sep="\n")
