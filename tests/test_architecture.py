"""The rules of the house: who may import whom, where weights and networks are opened, what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "visualglm"
FILES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((PACKAGE.parent / "benchmarks").glob("*.py"))
ANYWHERE = ["configuration", "configuration_limits", "errors", "safe_files"]
ROAD = [
    "image_files",
    "image_limits",
    "image_decoding",
    "image_worker",
    "image_pool",
    "images",
    "vocabulary",
    "tokenizer",
    "streaming",
    "prompt",
    "english",
    "messages",
    "processor_files",
    "processor",
    "attention",
    "linear",
    "graphs",
    "cache",
    "vision",
    "qformer",
    "glm",
    "generation_limits",
    "sampling",
    "generation",
    "decoding",
    "batching",
    "chat",
    "mixins",
    "prefix",
    "model",
    "devices",
    "conversation",
    "auto",
]
ROOMS = [
    "quantization",
    "checkpoints",
    "mini",
    "adapters",
    "scenes",
    "evaluation",
    "training",
    "finetuning",
    "explain",
    "captioning",
    "fetch",
    "compat",
    "serving",
    "vllm_plugin",
    "speed",
    "commands",
]
DOORS = {
    "linear": ["quantization"],
    "attention": ["quantization"],
    "model": ["checkpoints"],
    "conversation": ["checkpoints", "adapters"],
}
"""Files of the road that may open a room, inside the function that needs it."""


def home(file: Path) -> str:
    """The road file or room that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> list[tuple[str, bool]]:
    """Homes within the package that a file imports, and whether it does so at its top (type-checking blocks apart)."""
    found: list[tuple[str, bool]] = []
    tree = ast.parse(file.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    depth = len(file.relative_to(PACKAGE).parts) - 1
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level == depth + 1:
            names = (
                [node.module.split(".")[0]]
                if node.module
                else [alias.name for alias in node.names if alias.name != "__version__"]
            )
        elif (node.module or "").startswith("visualglm."):
            names = [(node.module or "").split(".")[1]]
        else:
            continue
        found += [(name, id(node) in top) for name in names]
    return found


def test_every_file_has_its_place() -> None:
    assert {home(file) for file in FILES} - {"__init__", "__main__"} <= {*ANYWHERE, *ROAD, *ROOMS}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_the_road(file: Path) -> None:
    place = home(file)
    if place in ("__init__", "__main__"):
        return
    for name, at_top in imported(file):
        if name == place or name in ANYWHERE or (not at_top and name in DOORS.get(place, [])):
            continue
        if place in ROAD:
            assert name in ROAD and ROAD.index(name) < ROAD.index(place), f"{place} imports {name}"
        elif place in ROOMS:
            assert name in ROAD or ROOMS.index(name) < ROOMS.index(place), f"{place} imports {name}"
        else:
            pytest.fail(f"{place} imports {name}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_first_line_says_the_files_place(file: Path) -> None:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert docstring, "a file begins with its place and its job"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_dangerous_doors_are_where_they_belong(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
            pytest.fail("a pickle is opened by torch.load(weights_only=True) only")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert home(file) == "checkpoints"
            assert any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            network = {"requests", "httpx", "urllib.request", "socket", "huggingface_hub"}
            assert not network & set(names) or home(file) in ("fetch", "checkpoints"), names
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "no bare except"


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.name)
def test_benchmarks_import_what_their_neighbours_have(file: Path) -> None:
    """No test runs them all."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        neighbour = file.with_name(f"{getattr(node, 'module', None)}.py")
        if isinstance(node, ast.ImportFrom) and neighbour in BENCHMARKS:
            there = ast.parse(neighbour.read_text(encoding="utf-8")).body
            defined = {getattr(target, "id", None) for s in there if isinstance(s, ast.Assign) for target in s.targets}
            defined |= {getattr(s.target, "id", None) for s in there if isinstance(s, ast.AnnAssign)}
            defined |= {getattr(statement, "name", None) for statement in there}
            defined |= {alias.name for s in there if isinstance(s, ast.ImportFrom) for alias in s.names}
            assert {alias.name for alias in node.names} <= defined, f"{file.name}, line {node.lineno}"


@pytest.mark.parametrize("arguments", [["-c", "import visualglm"], ["-m", "visualglm", "--help"]])
def test_light_things_stay_light(arguments: list[str]) -> None:
    """Neither importing the package nor asking for help loads torch or transformers."""
    program = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "transformers", "numpy", "PIL"} & loaded


def test_files_are_read_in_one_sitting() -> None:
    long = [str(f.relative_to(PACKAGE)) for f in FILES if len(f.read_text(encoding="utf-8").splitlines()) > 400]
    assert long == []
