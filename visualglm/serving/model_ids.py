"""Model ids that a request may use: the model itself, and each attached adapter.

    /v1/models   the model's id; with adapters `base` and their names (the model's own id still means the base model)

A request without a model is answered by the first adapter, if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError, VisualGLMError

BASE = "base"


class UnknownModelError(VisualGLMError):
    """A request names a model that is not served."""


@dataclass(frozen=True)
class ModelIds:
    """The model's own id, and the names of its adapters."""

    name: str
    adapters: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """The listed ids."""
        return (BASE, *self.adapters) if self.adapters else (self.name,)

    @property
    def first(self) -> str | None:
        """The adapter for requests without a model; None: the base model."""
        return self.adapters[0] if self.adapters else None

    @property
    def default(self) -> str:
        """The id of what answers where nothing is named."""
        return self.first or self.name

    def check(self, asked: str) -> str:
        """Return an id that means the model or an adapter.

        Raises:
            UnknownModelError: it means neither.
        """
        if asked != self.name and asked not in self.ids:
            ids = " or ".join(map(repr, self.ids))
            raise UnknownModelError(f"There is no model {asked[:100]!r} here. Use {ids}.")
        return asked

    def choose(self, asked: str | None) -> str:
        """Return the id that a request asks for, or the default if it names none; raises what `check` raises."""
        return self.check(asked or self.default)

    def adapter(self, asked: str) -> str | None:
        """Return the adapter of an id; None: the base model."""
        return asked if asked in self.adapters else None


def parse_adapter_flags(places: Sequence[str], model: str) -> dict[str, str]:
    """Parse repeated `NAME=DIR` or `DIR` (named after its folder) into folders by name, in order.

    Raises:
        UsageError: two have one name, or a name is that of the model.
    """
    found: dict[str, str] = {}
    for text in places:
        before, given, after = text.partition("=")
        name, place = (before, after) if given and "/" not in before else (text.rstrip("/").rsplit("/", 1)[-1], text)
        if not name or not place or name in (*found, BASE, model):
            raise UsageError(
                f"--adapter {text}: each adapter needs a name of its own, and {BASE} and {model} are the model's. "
                "Write --adapter NAME=DIR."
            )
        found[name] = place
    return found
