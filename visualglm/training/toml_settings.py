"""Read a TOML file into dataclasses; unknown keys are errors."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UsageError
from ..files.untrusted_files import read_bytes

T = TypeVar("T")
MAX_RECIPE_BYTES = 1 << 15
"""A thousand lines; a key of ten thousand parts takes tomllib quadratic time."""


def read_table(path: str | Path | None, changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a TOML file (an empty table if `path` is None) and apply `changes` (`key=value`, values as in TOML).

    Raises:
        UsageError: the file does not exist, cannot be read, or is not TOML.
    """
    try:
        table = tomllib.loads(read_bytes(path, MAX_RECIPE_BYTES).decode("utf-8")) if path is not None else {}
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"There is no recipe {path}. Give the path of a TOML file; recipes/ has some.") from error
    except OSError as error:
        raise UsageError(f"The recipe {path} cannot be read ({error.strerror}). Give the path of a file.") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply. Write it like the recipes in recipes/.") from error
    except ValueError as error:  # of bytes, TOML, or a number of thousands of digits
        raise UsageError(f"{path} is not TOML ({str(error)[:300]}). Write it like the recipes in recipes/.") from error
    for change in changes:
        table = _merge(table, _parse_change(change))
    return table


def _parse_change(change: str) -> dict[str, Any]:
    try:
        return tomllib.loads(change)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--set {change} is not TOML. Write it as in the recipe, e.g. --set 'output=\"runs/two\"'."
        ) from error


def _merge(table: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Update `table` with `change`, recursively in nested tables."""
    inner = {
        key: _merge(table[key], value)
        for key, value in change.items()
        if isinstance(value, dict) and isinstance(table.get(key), dict)
    }
    return {**table, **change, **inner}


def nearest_word(word: str, known: Sequence[str]) -> str:
    """Return the known word that is closest to a misspelt one."""
    return difflib.get_close_matches(word, known, n=1, cutoff=0)[0]


SCALARS: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, "a text in quotes"),
    "bool": (bool, "true or false"),
    "dict[str, float]": (dict, "a table of numbers"),
}


def fill_settings(kind: type[T], table: dict[str, Any], place: str) -> T:
    """Build a dataclass from a table.

    Raises:
        UsageError: a key is unknown or missing, or a value has another type. `place` names the table in the message.
    """
    known = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if not isinstance(table, dict):
        raise UsageError(f"{place} is {table!r}. Give a table of settings.")
    for key in table:
        if key not in known:
            raise UsageError(f"{key} in {place} is not a setting. Did you mean {nearest_word(key, known)}?")
    for entry in dataclasses.fields(kind):  # type: ignore[arg-type]
        expected = SCALARS.get(str(entry.type))
        value = table.get(entry.name)
        if (
            expected
            and entry.name in table
            and (not isinstance(value, expected[0]) or isinstance(value, bool) != (expected[0] is bool))
        ):
            raise UsageError(f"{entry.name} in {place} is {value!r}. Give {expected[1]}.")
    try:
        return kind(**table)
    except TypeError as error:
        raise UsageError(f"{place} is incomplete: {error}.") from error
