"""Load the compiled kernel and give it torch's threads.

The extension is built at install time where a C compiler is found (`pyproject.toml`). Without it `library()` returns
None and the package computes with torch.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
import sys
from ctypes import CDLL, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path

VERSION = 4
"""Version of the interface, as in `machine.c`: a stale build in a newer checkout is not used."""
PATHS = ("portable", "avx2", "avx512-vnni")
"""Instruction sets in the C code's order; the environment variable `VISUALGLM_KERNEL` takes one of them, or `none`."""
SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "visualglm_use_threads_of": (None, [c_void_p]),
    "visualglm_use_path": (None, [c_int]),
    "visualglm_path": (c_int, []),
    "visualglm_huge_pages": (None, [c_void_p, c_size_t]),
    "visualglm_int4_bytes": (c_size_t, [c_int] * 3),
    "visualglm_int8_bytes": (c_size_t, [c_int] * 2),
    "visualglm_arrange_int4": (None, [c_void_p] * 3 + [c_int] * 5),
    "visualglm_arrange_int8": (None, [c_void_p] * 2 + [c_int] * 4),
    "visualglm_quantize_int4": (c_int, [c_void_p] * 4 + [c_int] * 5),
    "visualglm_quantize_int8": (c_int, [c_void_p] * 3 + [c_int] * 4),
    "visualglm_read": (c_uint64, [c_void_p, c_size_t, c_int]),
    "visualglm_multiply": (c_int64, [c_int]),
    "visualglm_attend": (c_int, [c_void_p] * 6 + [c_int] * 5 + [c_float, c_int]),
    "visualglm_linear_bfloat16": (c_int, [c_void_p] * 4 + [c_int] * 4),
    "visualglm_linear_int4": (c_int, [c_void_p] * 3 + [c_int] * 6),
    "visualglm_linear_int8": (c_int, [c_void_p] * 4 + [c_int] * 5),
}


@functools.cache
def library() -> CDLL | None:
    """Return the compiled kernel; None where it is not built, has another version or is switched off."""
    wanted = os.environ.get("VISUALGLM_KERNEL", "")
    file = _built_file()
    if file is None or wanted == "none":
        return None
    opened = CDLL(str(file))
    if opened.visualglm_version() != VERSION:
        return None
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(opened, name)
        function.restype, function.argtypes = result, arguments
    opened.visualglm_use_path(PATHS.index(wanted) if wanted in PATHS else -1)
    opened.visualglm_use_threads_of(_torch_threads())
    return opened


def _built_file() -> Path | None:
    """Return the file that `build_ext` wrote into this folder, or else into an installed copy of this package.

    Python started in a checkout imports the checkout, where `pip install .` leaves no kernel.
    """
    folders = [Path(__file__).parent, *(Path(entry) / "visualglm" / "kernels" for entry in sys.path)]
    names = ["_kernel" + suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    return next((file for folder in folders for name in names if (file := folder / name).is_file()), None)


def _torch_threads() -> int | None:
    """Return the address of `GOMP_parallel` in torch's OpenMP library; None where torch uses another library.

    With two thread pools, idle threads of one would spin on the cores of the other.
    """
    import torch

    folders = (Path(torch.__file__).with_name("lib"), Path(torch.__file__).parent.with_name("torch.libs"))
    for name in [str(file) for folder in folders for file in sorted(folder.glob("libgomp*.so*"))]:
        function = getattr(CDLL(name), "GOMP_parallel", None)
        if function is not None:
            return ctypes.cast(function, c_void_p).value
    return None
