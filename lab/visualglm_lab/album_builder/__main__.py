"""Build an album: `python -m visualglm_lab.album_builder RECIPE`."""

from __future__ import annotations

import argparse
import importlib.util
import sys

from visualglm.errors import UsageError, VisualGLMError


def main() -> None:
    """Build the album and print its counts; a user's mistake is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m visualglm_lab.album_builder", description=__doc__)
    parser.add_argument("recipe", help="a TOML file, such as lab/recipes/mini/pictures.toml")
    arguments = parser.parse_args()
    try:
        _build(arguments.recipe)
    except VisualGLMError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _build(path: str) -> None:
    for module in ("resvg_py", "imagehash", "scipy", "h5py"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"Building an album needs {module}. Run pip install -e lab.")
    from .build import build
    from .config import read_album_recipe

    summary = build(read_album_recipe(path))
    print(f"{summary['images']} images:", ", ".join(f"{name} {n}" for name, n in sorted(summary["splits"].items())))


if __name__ == "__main__":
    main()
