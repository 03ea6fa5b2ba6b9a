"""The rules of the architecture: layers, no circles, where weights and networks are opened, what stays light.

Each rule is one test that lists its offenders; `docs/en/architecture.md` tells the same story.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "visualglm"
LABORATORY = ROOT / "lab" / "visualglm_lab"
FILES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))

LAZY = ("cli", "vllm_plugin", "serving/app.py", "network/configuration.py", "__init__.py")
"""Where imports may stand inside functions: to start fast, because what they need is optional, or because only the one
method that reads a file needs it."""

MAX_LINES = 400


def load_diagram() -> ModuleType:
    """Load the script that draws the architecture, whose table of layers is the rule."""
    return load_script("draw_architecture")


def load_script(name: str) -> ModuleType:
    """Load a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part_of(module: str) -> str:
    """`visualglm.network.glm` -> `network`."""
    return module.split(".")[1] if "." in module else ""


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of the product and the laboratory."""
    found = {}
    for package in (PACKAGE, LABORATORY):
        for file in package.rglob("*.py"):
            parts = file.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def parsed(file: Path) -> ast.Module:
    """Parse a file, once for all rules."""
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def name_of(file: Path) -> str:
    """Return the dotted name of a file."""
    return next(name for name, other in modules().items() if other == file)


@cache
def imports(name: str) -> list[tuple[str, bool]]:
    """Our modules that a module imports, each with whether it does so at its top level."""
    file = modules()[name]
    tree = parsed(file)
    top = {id(node) for node in tree.body}
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*base, *([node.module] if node.module else [])])
            targets = [full if (full := f"{home}.{alias.name}") in modules() else home for alias in node.names]
        else:
            continue
        found += [(target, id(node) in top) for target in targets if target in modules() and target != name]
    return found


def circles() -> Iterator[list[str]]:
    """Yield groups of files that import each other, by Tarjan's depth-first search."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for target, _ in imports(name):
            if target not in order:
                yield from visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], order[target])
        if lowest[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                yield group

    for name in modules():
        if name not in order:
            yield from visit(name)


def test_imports_point_downwards() -> None:
    layers = reversed(load_diagram().LAYERS)
    tiers = {part.removesuffix(".py"): tier for tier, parts in enumerate(layers) for part in parts}
    offenders = []
    for file in FILES:
        name = name_of(file)
        mine = part_of(name)
        if mine in ("", "__main__"):
            continue
        for target, _ in imports(name):
            theirs = part_of(target)
            if target.startswith("visualglm.") and theirs not in ("", mine) and tiers[theirs] >= tiers[mine]:
                offenders.append(f"{name} imports {target}")
    assert offenders == []


def test_the_drawings_are_of_today() -> None:
    diagram = load_diagram()
    for language, name in diagram.DRAWINGS.items():
        assert (diagram.IMAGES / name).read_text(encoding="utf-8") == diagram.draw(language)


def test_no_two_files_import_each_other() -> None:
    assert list(circles()) == []


def test_the_product_never_imports_the_laboratory() -> None:
    offenders = [
        f"{file}: {line}"
        for folder in (PACKAGE, ROOT / "benchmarks", ROOT / "examples")
        for file in sorted(folder.rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) visualglm_lab", line)
    ]
    assert offenders == []


def test_no_import_inside_a_function_hides_a_circle() -> None:
    offenders = [
        f"{name} imports {target}"
        for name, file in modules().items()
        if not str(file.relative_to(ROOT)).removeprefix("visualglm/").startswith(LAZY) and file.name != "__main__.py"
        for target, at_top in imports(name)
        if not at_top
    ]
    assert offenders == []


def test_every_file_begins_with_a_docstring_and_is_read_in_one_sitting() -> None:
    offenders = []
    for file in [*FILES, *sorted(LABORATORY.rglob("*.py"))]:
        text = file.read_text(encoding="utf-8")
        docstring = ast.get_docstring(parsed(file)) or ""
        if not re.match(r"[^a-z]", docstring) or len(text.splitlines()) > MAX_LINES:
            offenders.append(str(file.relative_to(ROOT)))
    assert offenders == []


def test_the_root_of_the_package_stays_small() -> None:
    here = [entry.name for entry in PACKAGE.iterdir() if entry.is_file()]
    assert len(here) <= 8, here


def test_weights_and_networks_are_opened_in_one_place_each() -> None:
    offenders = []
    for file in FILES:
        part = part_of(name_of(file))
        for node in ast.walk(parsed(file)):
            where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("load", "loads", "Unpickler"):
                called = ast.unparse(node.func)
                if called in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
                    offenders.append(f"{where} opens a pickle without torch.load(weights_only=True)")
                safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
                if called == "torch.load" and not (part == "checkpoints" and safe):
                    offenders.append(f"{where} calls torch.load outside checkpoints/ or without weights_only=True")
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                clients = names & {"requests", "httpx", "urllib.request", "socket", "huggingface_hub"}
                if clients and part != "hub" and file.name != "url_fetcher.py":
                    offenders.append(f"{where} imports {', '.join(sorted(clients))}")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                offenders.append(f"{where} has a bare except")
    assert offenders == []


def test_benchmarks_import_what_their_neighbours_define() -> None:
    """No test runs all of them."""
    offenders = []
    for file in BENCHMARKS:
        for node in ast.walk(parsed(file)):
            neighbour = file.with_name(f"{getattr(node, 'module', None)}.py")
            if isinstance(node, ast.ImportFrom) and neighbour in BENCHMARKS:
                missing = {alias.name for alias in node.names} - _defined(neighbour)
                offenders += [f"{file.name}:{node.lineno} {name}" for name in sorted(missing)]
    assert offenders == []


def _defined(file: Path) -> set[str]:
    """Return the names at the top level of a file."""
    names: set[str] = set()
    for node in parsed(file).body:
        if isinstance(node, ast.Assign):
            names |= {getattr(target, "id", "") for target in node.targets}
        elif isinstance(node, ast.AnnAssign):
            names.add(getattr(node.target, "id", ""))
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
        else:
            names.add(getattr(node, "name", ""))
    return names


@pytest.mark.parametrize("arguments", [["-c", "import visualglm"], ["-m", "visualglm", "--help"]])
def test_light_things_stay_light(arguments: list[str]) -> None:
    """Neither importing the package nor asking for help loads torch or transformers."""
    program = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=300)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "transformers", "numpy", "PIL"} & loaded


def test_the_network_knows_no_text_images_or_files() -> None:
    """The pure network imports nothing of ours for tokenizer, prompts, images or files, and neither Pillow nor
    sentencepiece itself."""
    code = "import sys, visualglm.network.visualglm; print(*[m for m in sys.modules if m.startswith('visualglm.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    parts = {part_of(name) for name in done.stdout.split()}
    assert parts <= {"network", "kernels", "errors"}
    for file in (PACKAGE / "network").glob("*.py"):
        assert not re.search(r"^\s*(from|import) (PIL|sentencepiece)", file.read_text(encoding="utf-8"), re.MULTILINE)
