"""All kinds of objects: drawn kinds, letters and digits, and `concepts.tsv`.

The table was curated by hand. Its columns are key, category, names in Chinese and English (the first is used in
answers, the others only in questions), plural, measure word, and the emoji that show the object.
"""

from __future__ import annotations

import csv
import string
import tomllib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from .kinds import KINDS, Kind

TABLE = Path(__file__).with_name("concepts.tsv")
LETTER = "letter"
_PLURAL_NAMES = frozenset(
    (
        *("crossed fingers", "painted nails", "heart hands", "lips", "praying hands", "cupped hands", "eyeglasses"),
        *("trousers", "pants", "theater masks", "ballet slippers", "briefs", "prayer beads", "fries", "hina dolls"),
        *("sun and clouds", "train tracks", "table tennis", "tennis", "hundred points", "sparkles", "scales"),
        *("film frames", "garden shears", "canned food", "curry", "wheat"),
    )
)


@lru_cache(maxsize=1)
def kinds() -> tuple[Kind, ...]:
    """Return all kinds: the drawn ones, then letters and digits, then those of the table in its order."""
    drawn = {kind.key for kind in KINDS}
    table = tuple(_kind(row) for row in _rows() if row["key"] not in drawn)
    return (*KINDS, *glyphs(), *table)


@lru_cache(maxsize=1)
def number_of() -> dict[Kind, int]:
    """Map each kind to its index in `kinds()`."""
    return {kind: number for number, kind in enumerate(kinds())}


@lru_cache(maxsize=1)
def by_key() -> dict[str, Kind]:
    """Map each key to its kind."""
    return {kind.key: kind for kind in kinds()}


@lru_cache(maxsize=1)
def names_without_article() -> frozenset[str]:
    """Return the English names without "a", plural or uncountable: gloves (pair of gloves), rice (bowl of rice)."""
    parts = {name for kind in kinds() for name in kind.en if kind.en[0].endswith(f" of {name}")}
    return frozenset(parts) | _PLURAL_NAMES


@lru_cache(maxsize=1)
def glyphs() -> tuple[Kind, ...]:
    """Return letters and digits as kinds to draw: 字母A, letter A."""
    letters = (
        Kind(f"letter {c}", LETTER, (f"字母{c}",), (f"letter {c}",), f"letters {c}") for c in string.ascii_uppercase
    )
    digits = (Kind(f"digit {c}", LETTER, (f"数字{c}",), (f"digit {c}",), f"digits {c}") for c in string.digits)
    return (*letters, *digits)


@lru_cache(maxsize=1)
def concept_of_emoji() -> dict[str, str]:
    """Map emoji (hexadecimal code points, joined by `-`) to the key of the kind that they show."""
    return {emoji: row["key"] for row in _rows() for emoji in (row["emoji"] or "").split()}


@lru_cache(maxsize=1)
def families() -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    """Read pairs (wide names, all names): an object with a narrow name may also be called by the wide one."""
    table = tomllib.loads(TABLE.with_name("families.toml").read_text(encoding="utf-8"))
    families = []
    for wide, narrow in table["families"].items():
        whole = narrow[0].startswith("@")
        members = {kind.key for kind in kinds() if kind.category == narrow[0][1:]} if whole else set(narrow)
        families.append((frozenset(wide.split(" / ")), frozenset(members) | frozenset(wide.split(" / "))))
    return tuple(families)


@lru_cache(maxsize=500_000)
def overlap(one: Kind, other: Kind) -> bool:
    """Return True if an image of one kind could correctly be named as the other."""
    a, b = one.key, other.key
    return a == b or any((a in wide and b in all_) or (b in wide and a in all_) for wide, all_ in families())


def _rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _kind(row: dict[str, str]) -> Kind:
    zh, en = tuple(row["zh"].split(";")), tuple(row["en"].split(";"))
    kind = Kind(row["key"], row["category"], zh, en, row["plural"])
    return replace(kind, measure=row["measure"]) if row["measure"] else kind
