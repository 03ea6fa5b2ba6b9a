"""errors: every error a user can meet, each one sentence: what is wrong, why, what to do.

Knows nothing about models or files. The command line turns a `VisualGLMError` into one line on stderr and exit code 2;
everything else keeps its traceback.
"""

from __future__ import annotations


class VisualGLMError(Exception):
    """A mistake that the user can mend; the message says how."""


class ImageError(VisualGLMError, ValueError):
    """A picture that cannot be opened, or must not be."""


class TokenizerError(VisualGLMError, ValueError):
    """A missing or wrong vocabulary file, or ids outside it."""


class PromptError(VisualGLMError, ValueError):
    """A dialogue that cannot become a prompt: too long, or its pictures and slots do not match."""


class CheckpointError(VisualGLMError, ValueError):
    """A checkpoint that cannot be opened: wrong format, missing, unexpected or misshapen tensors, broken files."""


class ConfigurationError(VisualGLMError, ValueError):
    """A configuration of another model, or one that contradicts itself."""


class QuantizationError(VisualGLMError, ValueError):
    """Weights that cannot be stored in so few bits, or a format that is not offered."""


class UsageError(VisualGLMError, ValueError):
    """Options that contradict each other, or a missing optional package."""
