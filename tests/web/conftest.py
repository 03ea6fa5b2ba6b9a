"""The page's tests run where Playwright and a Chromium are; `make test-web` says why where they do not."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("playwright"):
    from .chromium import browser, open_page, page, serve_page, server, slow

    __all__ = ["browser", "open_page", "page", "serve_page", "server", "slow"]
else:
    collect_ignore_glob = ["test_*.py"]
