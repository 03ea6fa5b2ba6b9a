"""Check the origins of other sites whose pages may send requests (`--allow-origin`).

Imports little, so that `--help` is fast.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...errors import UsageError

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
"""Desktop programs and extensions have schemes of their own."""


def parse_origins(given: Sequence[str]) -> tuple[str, ...]:
    """Check origins as browsers write them.

    Raises:
        UsageError: one is something else, for example `*` or a URL with a path.
    """
    for origin in given:
        if not ORIGIN.fullmatch(origin.lower()):
            raise UsageError(
                f"--allow-origin {origin} is not an origin. Write scheme, host and port only, as in "
                "https://app.example.org or http://localhost:3000."
            )
    return tuple(origin.lower() for origin in given)


def cors_settings(origins: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of starlette's CORSMiddleware.

    It must run before keys are checked, as preflight requests have none.
    """
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "HEAD", "POST"],
        "allow_headers": ["*"],
        "expose_headers": ["x-request-id", "retry-after"],
    }
