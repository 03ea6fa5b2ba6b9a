"""Errors that a user can meet. Each message says what happened and what to do.

The command line prints a `VisualGLMError` as one line on stderr and exits with code 2; other errors keep their
traceback.
"""

from __future__ import annotations

import re
from importlib.util import find_spec

CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")

LONGEST = 2000
"""Maximum number of characters in a message; names in files may have thousands."""


def visible(text: str, kept: str = "") -> str:
    """Escape the control characters of a text (`\\u001b`), so that a terminal prints them instead of obeying them.

    Bidirectional overrides are control characters too; those in `kept` stay. Names from files and answers go through
    this function.
    """
    return CONTROL.sub(lambda found: found[0] if found[0] in kept else f"\\u{ord(found[0]):04x}", text)


class VisualGLMError(Exception):
    """A user's mistake; the message says how to correct it. Every name that it quotes is safe to print."""

    def __str__(self) -> str:
        text = visible(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 400]} … {text[-350:]}"


class ImageError(VisualGLMError, ValueError):
    """An image that cannot be opened, or must not be."""


class TokenizerError(VisualGLMError, ValueError):
    """A missing or wrong vocabulary file, or ids outside the vocabulary."""


class PromptError(VisualGLMError, ValueError):
    """A dialogue that cannot become a prompt: a blank question, or images and placeholder tokens that do not match."""


class ContextLengthError(PromptError):
    """A dialogue that leaves no room for an answer, even without its oldest turns."""


class CheckpointError(VisualGLMError, ValueError):
    """A checkpoint that cannot be opened: wrong format, missing, unexpected or misshapen tensors, broken files."""


class ConfigurationError(VisualGLMError, ValueError):
    """A configuration of another model, or one that contradicts itself."""


class QuantizationError(VisualGLMError, ValueError):
    """Weights that cannot be quantized, or an unsupported format."""


class UsageError(VisualGLMError, ValueError):
    """Options that contradict each other, or a missing optional package."""


class AnswerError(VisualGLMError):
    """A model that computes no answer: its logits are NaN or infinite."""


def require_extra(extra: str, purpose: str, *packages: str) -> None:
    """Raise `UsageError` where one of `packages`, which the extra installs, is missing; `purpose` needs it."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UsageError(f"{purpose} needs {missing[0]}. Run: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs what an extra needs.

    It names the packages, because this one is on no index: `pip install "visualglm[serve]"` would fail.
    """
    from importlib.metadata import PackageNotFoundError, requires

    try:
        needed = [line.split(";")[0].strip() for line in requires("visualglm") or () if f'extra == "{extra}"' in line]
    except PackageNotFoundError:
        needed = []
    return " ".join(["pip install", *(f'"{one}"' for one in needed)]) if needed else f'pip install ".[{extra}]"'
