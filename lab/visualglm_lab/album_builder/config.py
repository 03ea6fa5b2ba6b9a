"""Settings of an album, read from a TOML recipe.

Unknown keys are errors.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from visualglm.errors import UsageError
from visualglm.training.toml_settings import fill_settings

ROLES = ("train", "unseen_style", "photos")


@dataclass(frozen=True)
class EmojiSource:
    """One emoji style. `files` is a path inside the package with `{code}` (hex sequence) or `{name}` (emoji name).

    Styles of one `family` are the same drawings in other colours: their images of one emoji form one cluster.
    """

    source: str
    package: str
    files: str
    licence: str
    role: str = "train"
    family: str = ""


@dataclass(frozen=True)
class Splits:
    """Fractions of near-duplicate clusters per split, and the hash distance (of 256 bits) below which images are
    near-duplicates.

    A concept that gives images to `held_out` or `validation` keeps at least `keep` others for training.
    """

    seed: int = 0
    held_out: float = 0.06
    validation: float = 0.03
    unseen_concepts: int = 25
    keep: int = 2
    distance: int = 56


@dataclass(frozen=True)
class AlbumRecipe:
    """Settings of an album. `names` is an Iconify package with emoji names.

    Paths are relative to the working directory. `teacher` is a package with a network's weights, at `teacher_file`.
    """

    output: str
    downloads: str
    names: str
    labels: str = ""
    splits: Splits = field(default_factory=Splits)
    emoji: tuple[EmojiSource, ...] = ()
    teacher: str = ""
    teacher_file: str = ""


def read_album_recipe(path: str | Path) -> AlbumRecipe:
    """Read and check a recipe.

    Raises:
        UsageError: a key is unknown or missing, or a role does not exist.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(
            f"There is no recipe {path}. Give a TOML file, e.g. lab/recipes/mini/pictures.toml."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML ({error}). Write it like lab/recipes/mini/pictures.toml.") from error
    table["splits"] = fill_settings(Splits, table.get("splits", {}), "splits")
    table["emoji"] = tuple(fill_settings(EmojiSource, entry, "emoji") for entry in table.get("emoji", []))
    for entry in table["emoji"]:
        if entry.role not in ROLES:
            raise UsageError(f"{entry.source} has an unknown role {entry.role}. Use {', '.join(ROLES)}.")
    return fill_settings(AlbumRecipe, table, "the recipe")
