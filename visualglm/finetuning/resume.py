"""Start or resume of a run in an output folder.

`recipe.json` holds the recipe, and what identifies the content of its files. `before.json` holds the evaluation
questions and the answers before training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..adapters.files import adapter_folder, base_of, weights_file
from ..errors import UsageError
from ..files.atomic import explain_write_errors, write_file
from ..files.untrusted_files import read_json
from ..training.distributed import rank
from .config import Finetuning
from .evaluation import EvalQuestion
from .saved_checkpoint import describe, is_whole, newest_first

RECIPE, BEFORE = "recipe.json", "before.json"
FILES = "files"
MAY_CHANGE = ("output", "answers", "keep", "tensorboard", "workers")


def is_first() -> bool:
    """Return True in the process that prints and writes (rank 0)."""
    return rank() == 0


def checkpoint_to_resume(
    recipe: Finetuning, output: Path, resume: bool, say: Callable[[str], None] = lambda line: None
) -> str | None:
    """Return the checkpoint to resume from, or None for a new run.

    Raises:
        UsageError: the folder is not empty (new run), or (resume) has no complete checkpoint or one of another run.
    """
    if not resume:
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is not a folder. Give another --output.")
        if is_first() and output.exists() and any(output.iterdir()):
            raise UsageError(f"{output} is not empty. Continue its run with --resume, or give another --output.")
        return None
    checkpoints = newest_first(output)
    checkpoint = next((folder for folder in checkpoints if is_whole(folder)), None)
    if checkpoint is None:
        raise UsageError(f"{output} has no complete checkpoint to resume from. Delete it, and run without --resume.")
    if checkpoint != checkpoints[0]:
        say(f"{checkpoints[0]} is damaged or incomplete; resuming from {checkpoint}")
    _require_same_run(recipe, output)
    return str(checkpoint)


def _require_same_run(recipe: Finetuning, output: Path) -> None:
    stored = _read_if_whole(output / RECIPE)
    if not isinstance(stored, dict) or not isinstance(stored.get(FILES), dict):
        raise UsageError(
            f"{output} has no {RECIPE} with the settings of its run. Start a new run with another --output."
        )
    now = json.loads(json.dumps(asdict(recipe)))
    were, described = stored[FILES], _describe_files(recipe)
    moved = [
        key
        for key in ("data", "validation", "model", "adapter")
        if str(now[key]) in described and described[now[key]] == were.get(str(stored.get(key)))
    ]
    other = [key for key, value in now.items() if stored.get(key) != value and key not in (*MAY_CHANGE, *moved)]
    if other:
        raise UsageError(f"{', '.join(other)} differ from the run in {output}. Resume with the recipe of that run.")
    changed = [file for file, content in described.items() if were.get(file, content) != content]
    if changed:
        raise UsageError(
            f"{changed[0]} changed since the run in {output} began, so its steps would not continue what was trained. "
            "Restore it, or start a new run with another --output."
        )


def write_recipe(recipe: Finetuning, output: Path) -> None:
    """Create the output folder and store what a resumed run is compared with."""
    with explain_write_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    _write(output / RECIPE, {**asdict(recipe), FILES: _describe_files(recipe)}, indent=2)


def _describe_files(recipe: Finetuning) -> dict[str, dict[str, Any]]:
    """Describe the content of what the recipe names, which may have moved, also to another machine.

    Data files have size and sha256, the base model has its fingerprint, and the adapter is the file of its weights.
    """
    found = {}
    for file in (recipe.data, recipe.validation):
        if Path(file).is_file():  # else no validation file, or an error that reading the rows reports later
            found[file] = describe(Path(file))
    if recipe.model:
        found[recipe.model] = {"fingerprint": base_of(recipe.model).fingerprint}
    if recipe.adapter:
        found[recipe.adapter] = describe(weights_file(adapter_folder(recipe.adapter)))
    return found


def write_before(output: Path, asked: list[list[EvalQuestion]], said: list[list[str]]) -> None:
    """Store the answers before training, with their questions."""
    _write(output / BEFORE, {"asked": [[asdict(one) for one in them] for them in asked], "answers": said})


def read_before(output: Path, asked: list[list[EvalQuestion]]) -> list[list[str]] | None:
    """Return the stored answers before training, or None if there are none for the same questions."""
    stored = _read_if_whole(output / BEFORE)
    now = json.loads(json.dumps([[asdict(one) for one in them] for them in asked]))
    if not isinstance(stored, dict) or stored.get("asked") != now:
        return None
    return stored.get("answers") if _has_texts(stored.get("answers"), asked) else None


def _has_texts(stored: Any, asked: list[list[EvalQuestion]]) -> bool:
    """Return True if `stored` holds one text per question."""
    if not isinstance(stored, list) or not all(isinstance(texts, list) for texts in stored):
        return False
    all_text = all(isinstance(text, str) for texts in stored for text in texts)
    return all_text and [len(texts) for texts in stored] == [len(them) for them in asked]


def _write(file: Path, content: Any, **options: Any) -> None:
    write_file(file, json.dumps(content, ensure_ascii=False, **options) + "\n")


def _read_if_whole(file: Path) -> Any:
    """Read a JSON file, or return None if it is missing or damaged."""
    try:
        return read_json(file)
    except (OSError, ValueError):
        return None
