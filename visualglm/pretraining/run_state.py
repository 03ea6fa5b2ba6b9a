"""How far a run is, and its files in `output`, which change all together or, killed, not at all.

    output/.saving/ -- one rename, when all is written --> output/.saved/ -- file by file --> output/

A start finishes the second step where a kill interrupted it. Knows nothing about what is in the files but
`progress.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.atomic import exit_on_signals, explain_write_errors, remove, sync_folder, sync_tree
from ..files.reading import read_json
from ..training.distributed import barrier, rank
from .config import RunConfig

PROGRESS, SAVING, SAVED, OLD = "progress.json", ".saving", ".saved", ".old"
ADVICE = "make room or allow it there, and the same command goes on from what was saved before"


@dataclass(frozen=True)
class RunState:
    """`step` steps and `seconds` of stage number `stage` are done; `recipe` is what must stay as it was (`fixed`)."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    recipe: dict[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Into `progress.json`."""
        (folder / PROGRESS).write_text(json.dumps(asdict(self)), encoding="utf-8")

    def check_types(self) -> None:
        """Raises `ValueError` where something else was read than `write` writes."""
        counts = all(isinstance(count, int) and count >= 0 for count in (self.stage, self.step))
        recipe = self.recipe is None or (isinstance(self.recipe, dict) and isinstance(self.recipe.get("stages"), list))
        if not (counts and isinstance(self.seconds, (int, float)) and recipe):
            raise ValueError("it holds something else than counts and a recipe")

    def check(self, folder: Path, now: dict[str, Any]) -> None:
        """Stages that have not begun may change, and so may how long one lasts.

        Raises:
            UsageError: what the saved weights depend on has changed.
        """
        if self.recipe is None:
            return  # saved before this was noted
        began = self.stage + (self.step > 0)
        kept, now = (_begun(values, began) for values in (self.recipe, now))
        other = [name for name in kept if kept[name] != now.get(name)]
        if other:
            raise UsageError(
                f"{', '.join(other)} of the recipe differ from the run in {folder}: go on with the recipe that it "
                "began with, or give another output."
            )


def fixed(recipe: RunConfig) -> dict[str, Any]:
    """What a run may not change, as JSON keeps it."""
    return {
        "seed": recipe.seed,
        "vocabulary": hashlib.sha256(Path(recipe.vocabulary).read_bytes()).hexdigest(),
        "model": asdict(recipe.model),
        "start": asdict(recipe.start),
        "stages": [[stage.name, stage.kind] for stage in recipe.stages],
    }


def _begun(values: dict[str, Any], stages: int) -> dict[str, Any]:
    return {**values, "stages": values["stages"][:stages]}


def read_run_state(folder: Path, now: dict[str, Any]) -> RunState | None:
    """How far the run in a folder is; None where there is none. `now` is today's `fixed`. Every process must call it.

    Raises:
        UsageError: the file is broken, or the recipe is another one.
    """
    if not rank():
        settle(folder)
    barrier()
    file = folder / PROGRESS
    if not file.exists():
        return None
    try:
        progress = RunState(**read_json(file))
        progress.check_types()
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{file} is broken: delete {folder} to begin anew, or give another output.") from error
    progress.check(folder, now)
    return progress


@contextmanager
def saving(folder: Path) -> Iterator[Path]:
    """An empty folder; what the block writes there takes the place of what has the same name in `folder`.

    Every process must enter, and may write.
    """
    fresh = folder / SAVING
    if not rank():
        settle(folder)
    barrier()
    with explain_write_errors(folder, ADVICE), exit_on_signals():
        fresh.mkdir(exist_ok=True)
        try:
            yield fresh
            barrier()
        except BaseException:
            remove(fresh)
            raise
        if not rank():
            sync_tree(fresh)
            fresh.rename(folder / SAVED)
            sync_folder(folder)
            settle(folder)


def settle(folder: Path) -> None:
    """What was saved whole goes to its place, what was not goes."""
    for name in (SAVING, OLD):
        remove(folder / name)
    for piece in sorted((folder / SAVED).glob("*")):
        place = folder / piece.name
        if place.is_dir():
            place.rename(folder / OLD)
        piece.replace(place)
        remove(folder / OLD)
    sync_folder(folder)
    if (folder / SAVED).exists():
        (folder / SAVED).rmdir()
