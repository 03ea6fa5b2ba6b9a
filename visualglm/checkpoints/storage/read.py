"""Read one file of weights into lazy tensors.

In: a `.safetensors`, `.bin` or `.pt` file. Out: names -> `LazyTensor` (safetensors), or the unpickled object with its
tensors mapped from the file (PyTorch). The file is never read whole and nothing in it is executed
(`weights_only=True`). For a file without weights (a web page, a git-lfs pointer, half a download) the error says what
it is.
"""

from __future__ import annotations

import argparse
import math
import mmap
import pickle
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path, PureWindowsPath
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import CheckpointError
from ...files.atomic import scratch_folder
from ...files.untrusted_files import open_regular, parse_json, wrong_download
from .lazy_tensor import LazyTensor
from .pickle_check import check_pickles, check_records

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
TORCH_LOAD = threading.Lock()
"""Held while `torch.load` runs: trusted globals and the way of mapping are settings of the whole process."""
MOST_HEADER = 1 << 24
"""Maximum bytes of a safetensors header; all files of the 6B have 0.1 MB of headers."""
MOST_AXES = 8
MOST_SHARING = 4
"""How often tensors of one file may share its bytes: a tied head uses them twice, malicious views without limit."""

# Plain values that training frameworks store beside the weights: random states and options. numpy 1 and 2 name their
# array builder differently.
ARRAY_BUILDER = np.empty(0).__reduce__()[0]
SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
    (ARRAY_BUILDER, "numpy.core.multiarray._reconstruct"),
    (ARRAY_BUILDER, "numpy._core.multiarray._reconstruct"),
]


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Open a safetensors file as names -> mapped lazy tensors.

    Raises:
        CheckpointError: it is not a safetensors file, or is truncated.
    """
    check_is_weights_file(path)
    with readable(path), open_regular(path) as file:
        header, start = _safetensors_header(path, file)
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    tensors = {name: _mapped(pages, start, name, entry, path) for name, entry in header.items()}
    _refuse_overlaps(header, path)
    return tensors


def _safetensors_header(path: Path, file: IO[bytes]) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise CheckpointError(f"{path} is not a complete safetensors file. Download it again.")
    if length > MOST_HEADER:
        raise CheckpointError(
            f"{path} is not a safetensors file of this model: its header has {length >> 20} MiB, and at most "
            f"{MOST_HEADER >> 20} are read."
        )
    try:
        header = parse_json(file.read(length))
    except ValueError as error:
        raise CheckpointError(f"{path} is not a safetensors file: its header cannot be read ({error}).") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is not a safetensors file: its header is not a table of tensors.")
    return header, 8 + length


def _refuse_overlaps(header: dict[str, Any], path: Path) -> None:
    """Raise `CheckpointError` if two tensors share bytes: a small file could then take any amount of memory."""
    ends = sorted(entry["data_offsets"] for entry in header.values())
    if any(later[0] < earlier[1] for earlier, later in pairwise(ends)):
        raise CheckpointError(f"{path} is damaged (two of its tensors overlap). Download it again.")


def _mapped(pages: mmap.mmap, start: int, name: str, entry: Any, path: Path) -> LazyTensor:
    try:
        shape, kind, (begin, end) = tuple(entry["shape"]), entry["dtype"], entry["data_offsets"]
        numbers = (*shape, begin, end)
        if len(shape) > MOST_AXES or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("sizes are whole numbers")
        dtype = SAFETENSORS_DTYPES.get(kind)
        fits = dtype is None or end - begin == math.prod(shape) * dtype.itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged (its entry of {name} makes no sense). Download it again.") from error
    if dtype is None:
        raise CheckpointError(f"{path} has a tensor of type {kind}. Supported are {', '.join(SAFETENSORS_DTYPES)}.")
    if not fits or start + end > len(pages):
        raise CheckpointError(f"{path} is truncated: the numbers of {name} are not all there. Download it again.")

    def read() -> Tensor:
        if math.prod(shape) == 0:
            return torch.empty(shape, dtype=dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            return torch.frombuffer(pages, dtype=dtype, count=math.prod(shape), offset=start + begin).view(shape)

    return LazyTensor(shape, dtype, read, mapped=True)


def open_torch(path: Path) -> Any:
    """Load what `torch.save` wrote into the file, with its tensors mapped from it.

    A file of PyTorch < 1.6 cannot be mapped; it is first rewritten into a temporary file that can (which briefly takes
    the file's size in memory, and on disk until the tensors are freed).

    Raises:
        CheckpointError: it is not a PyTorch file, is truncated, or would run code.
    """
    check_is_weights_file(path)
    if _is_zip(path):
        check_records(path)
        return _load(path, mapped=True)
    with open_regular(path) as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        raise CheckpointError(f"{path} is truncated: its end is missing. Download it again.")
    if head[:1] != b"\x80":
        raise CheckpointError(f"{path} is not a file of PyTorch weights. Download it again.")
    check_pickles(path)
    return _rewritten(path)


@contextmanager
def _read_only_mapping() -> Iterator[None]:
    """Make `torch.load(mmap=True)` in this thread map read-only, as safetensors are mapped; other threads are
    unaffected.

    torch maps a file writable, which limits on memory (RLIMIT_DATA, strict overcommit) count as memory: two shards of
    the 6B would use up 8 GB before anything is read. torch has no option for this, so `UntypedStorage.from_file` is
    replaced while `TORCH_LOAD` is held.
    """
    thread, torchs_own = threading.get_ident(), torch.UntypedStorage.from_file

    def from_file(path: str, *args: Any) -> Any:
        return _map_read_only(path) if threading.get_ident() == thread else torchs_own(path, *args)

    torch.UntypedStorage.from_file = staticmethod(from_file)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del torch.UntypedStorage.from_file  # the base class keeps torch's own


def _map_read_only(path: str) -> torch.UntypedStorage:
    with Path(path).open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return torch.frombuffer(pages, dtype=torch.uint8).untyped_storage()


def _rewritten(path: Path) -> Any:
    content = _load(path, mapped=False)
    try:
        with scratch_folder(Path(tempfile.gettempdir()), "rewritten") as scratch:
            save_torch(content, scratch / "weights.bin")
            return _load(scratch / "weights.bin", mapped=True)  # the mapping outlives the name
    except OSError as error:
        raise CheckpointError(
            f"{path} is a file of PyTorch before 1.6 and has to be rewritten, but {tempfile.gettempdir()} cannot take "
            f"it ({error.strerror or error}). Make room there, or set TMPDIR to a folder with room."
        ) from error


class ErrorRecordingFile:
    """A writable file that remembers why writing failed, which torch's own writer does not report."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_torch(content: object, path: Path) -> None:
    """Call `torch.save`; a full disk raises the system's OSError."""
    with path.open("wb") as file:
        noting = ErrorRecordingFile(file)
        try:
            torch.save(content, noting)  # type: ignore[arg-type]
        except RuntimeError as error:
            if noting.error is None:
                raise
            raise OSError(noting.error.errno, noting.error.strerror, str(path)) from error


def _load(path: Path, mapped: bool) -> Any:
    try:
        mapping = _read_only_mapping() if mapped else nullcontext()
        with TORCH_LOAD, torch.serialization.safe_globals(SAFE_GLOBALS), mapping:
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or holds more than numbers ({_reason(error)}), and is not opened, because a pickle can "
            "run code. Download it again, or ask its author for safetensors."
        ) from error
    except Exception as error:  # a damaged pickle can raise any exception
        if _is_zip(path) and not _has_pickle(path):
            raise CheckpointError(f"{path} is a zip archive, not weights: unpack it and give the folder.") from error
        raise CheckpointError(f"{path} is truncated or damaged ({_reason(error)}). Download it again.") from error


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def _has_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # too damaged to tell
        return True


def _reason(error: Exception) -> str:
    """Return the one line of torch's message that states the cause."""
    lines = str(error).splitlines() or [type(error).__name__]
    met = next((line.split("error:", 1)[1] for line in lines if "error:" in line), lines[0])
    return met.split(". ")[0].strip(" .")


def tensors_only(content: Any, file: Path) -> dict[str, LazyTensor]:
    """Return a pickled dictionary of tensors as lazy ones.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file} holds no dictionary of tensors, so it is not a checkpoint of this model.")
    odd = [str(name)[:200] for name, value in content.items() if not isinstance(name, str) or not _is_plain(value)]
    if odd:
        raise CheckpointError(
            f"{file} holds {', '.join(odd[:8])} beside tensors, so it is not a checkpoint of this model."
        )
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in content.values()}
    if sum(tensor.nbytes for tensor in content.values()) > MOST_SHARING * sum(storages.values()):
        raise CheckpointError(f"{file} has far fewer numbers than its tensors show. Download it again.")
    return {name: LazyTensor.of(tensor.detach(), mapped=True) for name, tensor in content.items()}


def _is_plain(value: Any) -> bool:
    """Return whether it is a dense tensor of numbers in memory, possibly with strides."""
    plain = isinstance(value, torch.Tensor) and value.layout is torch.strided and value.device.type == "cpu"
    return plain and value.dtype in SAFETENSORS_DTYPES.values()


def check_is_weights_file(path: Path) -> None:
    """Raise `CheckpointError` for a web page, a git-lfs pointer, an empty file or an unreadable one."""
    with readable(path), open_regular(path) as file:
        head = file.read(512)
    fault = wrong_download(head)
    if fault is not None:
        raise CheckpointError(f"{path} {fault}")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Convert the system's error on reading into a `CheckpointError` with its reason."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be read ({error.strerror or error}). Check its kind and permissions."
        ) from error


def is_plain_name(name: str) -> bool:
    """Return whether a name inside a file names something beside that file, on every system."""
    return name != ".." and name == PureWindowsPath(name).name != ""
