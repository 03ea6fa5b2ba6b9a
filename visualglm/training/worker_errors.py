"""Keep an error of a data worker one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import VisualGLMError


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Raise an error of a DataLoader's worker without the worker's traceback, which torch makes part of its message."""
    try:
        yield
    except VisualGLMError as error:
        *before, last = str(error.args[0]).rstrip().split("\n")
        if not before:
            raise
        raise type(error)(last.partition(": ")[2]) from error
