"""Progress of a run, and atomic updates of its output folder.

    output/.saving/ -- one rename, when all is written --> output/.saved/ -- file by file --> output/

If a kill interrupts the second step, the next start completes it. So the files in `output` always belong together.
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
from ..files.untrusted_files import read_json
from ..training.distributed import barrier, rank
from .config import RunConfig

PROGRESS, SAVING, SAVED, OLD = "progress.json", ".saving", ".saved", ".old"
ADVICE = "free disk space or allow writing there, then run the same command again to resume from the last save"


@dataclass(frozen=True)
class RunState:
    """Progress of a run: `step` steps and `seconds` of stage `stage` are done; `recipe` holds the `fixed` settings."""

    stage: int
    step: int
    seconds: float
    recipe: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write `progress.json`."""
        (folder / PROGRESS).write_text(json.dumps(asdict(self)), encoding="utf-8")

    def check_types(self) -> None:
        """Raise `ValueError` unless the values have the types that `write` writes."""
        counts = all(isinstance(count, int) and count >= 0 for count in (self.stage, self.step))
        recipe = isinstance(self.recipe, dict) and isinstance(self.recipe.get("stages"), list)
        if not (counts and isinstance(self.seconds, (int, float)) and recipe):
            raise ValueError("it holds something else than counts and a recipe")

    def check(self, folder: Path, now: dict[str, Any]) -> None:
        """Check that the recipe fits the saved weights. Stages that have not begun, and lengths, may change.

        Raises:
            UsageError: a setting on which the saved weights depend has changed.
        """
        started = self.stage + (self.step > 0)
        saved, now = ({**values, "stages": values["stages"][:started]} for values in (self.recipe, now))
        changed = [name for name in saved if saved[name] != now.get(name)]
        if changed:
            raise UsageError(
                f"{', '.join(changed)} of the recipe differ from the run in {folder}. Continue with the recipe of that "
                "run, or give another output."
            )


def fixed(recipe: RunConfig) -> dict[str, Any]:
    """Return the settings that may not change when a run is resumed, as JSON values."""
    return {
        "seed": recipe.seed,
        "vocabulary": hashlib.sha256(Path(recipe.vocabulary).read_bytes()).hexdigest(),
        "model": asdict(recipe.model),
        "start": asdict(recipe.start),
        "stages": [[stage.name, stage.kind] for stage in recipe.stages],
    }


def read_run_state(folder: Path, now: dict[str, Any]) -> RunState | None:
    """Read the progress of the run in a folder, or None if there is no run; every process must call it.

    Args:
        now: the `fixed` settings of the current recipe.

    Raises:
        UsageError: the file is damaged, or the recipe does not fit the run.
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
        raise UsageError(f"{file} is damaged. Delete {folder} to start over, or give another output.") from error
    progress.check(folder, now)
    return progress


@contextmanager
def saving(folder: Path) -> Iterator[Path]:
    """Yield an empty folder whose files then replace those of the same name in `folder`, all or none.

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
    """Move completely saved files into `folder` and delete incomplete ones."""
    for name in (SAVING, OLD):
        remove(folder / name)
    for saved in sorted((folder / SAVED).glob("*")):
        target = folder / saved.name
        if target.is_dir():
            target.rename(folder / OLD)
        saved.replace(target)
        remove(folder / OLD)
    sync_folder(folder)
    if (folder / SAVED).exists():
        (folder / SAVED).rmdir()
