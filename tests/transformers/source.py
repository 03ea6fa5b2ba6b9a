"""Import transformers' own test modules from its source.

The folder is `TRANSFORMERS_SOURCE`, or the sdist that `make test-transformers` unpacks into `build/`. The sdist lacks
`tests/generation` and `tests/exporters`; empty classes replace their two mixins, so that the model's tests import.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import transformers

PACKAGE = "transformers_tests"  # `tests` is our own package
STAND_INS = {"generation.test_utils": "GenerationTesterMixin", "exporters.test_export": "ExportTesterMixin"}
UNPACKED = Path(__file__).parents[2] / "build" / f"transformers-{transformers.__version__}"


def source_folder() -> Path:
    """Return the folder of the source; it may not exist."""
    return Path(os.environ.get("TRANSFORMERS_SOURCE") or UNPACKED).absolute()


def import_upstream(name: str) -> ModuleType:
    """Import a module such as `tests.test_processing_common`; skip the calling module where there is no source."""
    tests = source_folder() / "tests"
    if not tests.is_dir():
        pytest.skip("not run: no source of transformers; run make test-transformers", allow_module_level=True)
    if PACKAGE not in sys.modules:
        _add_package(PACKAGE, tests)
        for path, mixin in STAND_INS.items():
            _add_stand_in(tests, path, mixin)
    return importlib.import_module(PACKAGE + name.removeprefix("tests"))


def _add_package(name: str, folder: Path) -> None:
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def _add_stand_in(tests: Path, path: str, mixin: str) -> None:
    """Add the module `path` with an empty class `mixin`, unless the source has it."""
    folder, _, name = path.partition(".")
    if not (tests / folder / f"{name}.py").is_file():
        _add_package(f"{PACKAGE}.{folder}", tests / folder)
        module = ModuleType(f"{PACKAGE}.{path}")
        setattr(module, mixin, type(mixin, (), {}))
        sys.modules[module.__name__] = module
