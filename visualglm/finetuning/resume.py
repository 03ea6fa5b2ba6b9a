"""An output folder -> whether a run may begin or go on there, and from which checkpoint.

`recipe.json` holds the recipe and what the data files were (size and sha256); `before.json` the questions and their
untrained answers. Knows nothing about models.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.atomic import explain_write_errors, write_file
from ..files.reading import read_json
from ..training.distributed import rank
from .evaluation import EvalQuestion
from .finetuning_config import Finetuning
from .saved_checkpoint import describe, is_whole, newest_first

RECIPE, BEFORE = "recipe.json", "before.json"
FILES = "files"
MAY_CHANGE = ("output", "answers", "keep", "tensorboard", "workers")


def is_first() -> bool:
    """Of several processes, the one that speaks and writes."""
    return rank() == 0


def checkpoint_to_resume(
    recipe: Finetuning, output: Path, resume: bool, say: Callable[[str], None] = lambda line: None
) -> str | None:
    """The checkpoint to go on from, or None.

    Raises:
        UsageError: there is a run already, or none to resume, or it had other settings or other data.
    """
    if not resume:
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is no folder: give another --output.")
        if is_first() and output.exists() and any(output.iterdir()):
            raise UsageError(f"{output} is not empty: go on with its run by --resume, or give another --output.")
        return None
    checkpoints = newest_first(output)
    checkpoint = next((folder for folder in checkpoints if is_whole(folder)), None)
    if checkpoint is None:
        raise UsageError(f"{output} has no complete checkpoint to resume from: delete it, and run without --resume.")
    if checkpoint != checkpoints[0]:
        say(f"{checkpoints[0]} is damaged or was not saved to its end: going on from {checkpoint}")
    _require_same_run(recipe, output)
    return str(checkpoint)


def _require_same_run(recipe: Finetuning, output: Path) -> None:
    stored = _stored(output / RECIPE)
    if not isinstance(stored, dict) or not isinstance(stored.get(FILES, {}), dict):
        raise UsageError(f"{output} has no {RECIPE} that says what its run was: begin anew with another --output.")
    now = json.loads(json.dumps(asdict(recipe)))
    other = [key for key, value in now.items() if stored.get(key) != value and key not in MAY_CHANGE]
    if other:
        raise UsageError(f"{', '.join(other)} differ from the run in {output}: resume with the recipe it began with.")
    were = stored.get(FILES, {})  # earlier versions did not keep it
    changed = [file for file, content in _contents(recipe).items() if were.get(file, content) != content]
    if changed:
        raise UsageError(
            f"{changed[0]} changed since the run in {output} began, and rows that it held out would be learned from: "
            "put the file back as it was, or begin anew with another --output."
        )


def write_recipe(recipe: Finetuning, output: Path) -> None:
    """The folder, and in it what a resumed run is compared with."""
    with explain_write_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    _write(output / RECIPE, {**asdict(recipe), FILES: _contents(recipe)}, indent=2)


def _contents(recipe: Finetuning) -> dict[str, dict[str, Any]]:
    """Size and sha256 of the data files that are there."""
    found = {}
    for file in (recipe.data, recipe.validation):
        if not Path(file).is_file():  # no validation, or what reading the rows says later
            continue
        found[file] = describe(Path(file))
    return found


def write_before(output: Path, asked: list[list[EvalQuestion]], said: list[list[str]]) -> None:
    """The untrained answers, with what was asked."""
    _write(output / BEFORE, {"asked": [[asdict(one) for one in them] for them in asked], "answers": said})


def read_before(output: Path, asked: list[list[EvalQuestion]]) -> list[list[str]] | None:
    """The untrained answers to the same questions, None where there are none or they were others."""
    stored = _stored(output / BEFORE)
    now = json.loads(json.dumps([[asdict(one) for one in them] for them in asked]))
    same = isinstance(stored, dict) and stored.get("asked") == now
    answers = stored.get("answers") if same else stored  # earlier versions kept the answers alone
    return answers if _answer(answers, asked) else None


def _answer(said: Any, asked: list[list[EvalQuestion]]) -> bool:
    """Whether it is a text for each question."""
    if not isinstance(said, list) or not all(isinstance(texts, list) for texts in said):
        return False
    all_text = all(isinstance(text, str) for texts in said for text in texts)
    return all_text and [len(texts) for texts in said] == [len(them) for them in asked]


def _write(file: Path, content: Any, **options: Any) -> None:
    write_file(file, json.dumps(content, ensure_ascii=False, **options) + "\n")


def _stored(file: Path) -> Any:
    """What a file of JSON holds, None where there is none or it was not written to its end."""
    try:
        return read_json(file)
    except (OSError, ValueError):
        return None
