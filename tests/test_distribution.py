"""The sdist and the wheel: built, installed in an empty environment, and used from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
BUILD = "from setuptools import build_meta; import sys; print(build_meta.build_{}(sys.argv[1]))"
PROGRAM = """
import visualglm
from visualglm.kernels import cpu_backend
print(visualglm.__file__)
print(cpu_backend.available())
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program that knows nothing of this checkout, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from the sdist, so that the sdist is known to be complete."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    shutil.copytree(ROOT / "visualglm", source / "visualglm", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    sdist = run(sys.executable, "-c", BUILD.format("sdist"), folder, cwd=source).splitlines()[-1]
    with tarfile.open(folder / sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.removesuffix(".tar.gz")
    return folder / run(sys.executable, "-c", BUILD.format("wheel"), folder, cwd=unpacked).splitlines()[-1]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the wheel; the packages that it needs are those of this one, found by a path."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def test_it_is_used_from_another_folder(environment: Path, tmp_path: Path) -> None:
    place, kernel = run(environment / "bin" / "python", "-c", PROGRAM, cwd=tmp_path).split()
    assert Path(place).is_relative_to(environment)
    assert kernel == str(shutil.which("cc") is not None or shutil.which("gcc") is not None)
    sample = Path(place).parent / "mini" / "samples" / "moon.png"
    assert "moon" in run(environment / "bin" / "visualglm", "ask", sample, "What is in the picture?", cwd=tmp_path)


def test_python_inside_a_checkout_finds_the_installed_kernel(environment: Path, tmp_path: Path) -> None:
    """`pip install .` leaves no kernel in the checkout, which Python started there imports."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "mini")
    shutil.copytree(ROOT / "visualglm", tmp_path / "visualglm", ignore=ignored)
    place, kernel = run(environment / "bin" / "python", "-c", PROGRAM, cwd=tmp_path).split()
    assert Path(place).is_relative_to(tmp_path) and kernel == "True"
