"""Attacks on everything that takes a stranger's input. Files named test_long_* take minutes: `make test-security`."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("VISUALGLM_TEST_SECURITY") else ["test_long_*.py"]
