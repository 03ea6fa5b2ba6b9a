"""Every error a user can meet, each one sentence: what is wrong, why, what to do.

Knows nothing about models or files. The command line turns a `VisualGLMError` into one line on stderr and exit code 2;
everything else keeps its traceback.
"""

from __future__ import annotations

import re
from importlib.util import find_spec

CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")

LONGEST = 2000
"""Characters of a message: names in files may have thousands."""


def visible(text: str, kept: str = "") -> str:
    """Text with its control characters spelled out (`\\u001b`), so that a terminal shows them and obeys none.

    Bidirectional overrides are among them; `kept` are those that stay. Names from files and answers go through this.
    """
    return CONTROL.sub(lambda found: found[0] if found[0] in kept else f"\\u{ord(found[0]):04x}", text)


class VisualGLMError(Exception):
    """A mistake that the user can mend; the message says how. Whatever name it quotes is safe to print."""

    def __str__(self) -> str:
        text = visible(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 400]} … {text[-350:]}"


class ImageError(VisualGLMError, ValueError):
    """A image that cannot be opened, or must not be."""


class TokenizerError(VisualGLMError, ValueError):
    """A missing or wrong vocabulary file, or ids outside it."""


class PromptError(VisualGLMError, ValueError):
    """A dialogue that cannot become a prompt: a blank question, or images and placeholder tokens that do not match."""


class ContextLengthError(PromptError):
    """A dialogue that leaves no room for an answer, even without its oldest turns."""


class CheckpointError(VisualGLMError, ValueError):
    """A checkpoint that cannot be opened: wrong format, missing, unexpected or misshapen tensors, broken files."""


class ConfigurationError(VisualGLMError, ValueError):
    """A configuration of another model, or one that contradicts itself."""


class QuantizationError(VisualGLMError, ValueError):
    """Weights that cannot be stored in so few bits, or a format that is not offered."""


class UsageError(VisualGLMError, ValueError):
    """Options that contradict each other, or a missing optional package."""


class AnswerError(VisualGLMError):
    """A model that computes no answer: its logits are NaN or infinite."""


def require_extra(extra: str, purpose: str, *packages: str) -> None:
    """Raise `UsageError` where one of `packages`, which `visualglm[EXTRA]` installs, is missing; `purpose` needs it."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UsageError(f'{purpose} needs {missing[0]}: run pip install "visualglm[{extra}]".')
