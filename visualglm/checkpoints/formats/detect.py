"""Detect the layout of a folder, from file names and the model type in `config.json`.

In: a path, which may not exist. Out: the folder and `native`, `hf` or `sat`, or an error that says what it is instead.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckpointError
from ...files.json_object import read_object
from ...hub.local_folder import SAT_WEIGHTS
from ..checkpoint import Layout
from ..storage.read import check_is_weights_file

CONFIG = "config.json"
SAT_CONFIG = "model_config.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")


def detect_layout(path: Path) -> tuple[Path, Layout]:
    """Return the checkpoint's folder and its layout.

    Raises:
        CheckpointError: nothing there, or something else.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist. Give the folder with the model's files.")
    folder = path if path.is_dir() else _folder_of(path)
    if not any(folder.iterdir()):
        raise CheckpointError(f"{folder} is empty. Put the model's files there, or give the folder that has them.")
    if (folder / SAT_WEIGHTS).exists() or _looks_sat(folder):
        return folder, "sat"
    if (folder / CONFIG).exists():
        return folder, _by_model_type(folder)
    raise CheckpointError(f"{folder} is not a VisualGLM checkpoint: {_what_it_may_be(folder)}")


def root_folder(path: Path) -> Path:
    """Return the checkpoint's folder for a file inside it or a sat step folder."""
    folder = path if path.is_dir() else path.parent
    inside = (folder / SAT_WEIGHTS).exists() and not (folder / SAT_CONFIG).exists()
    return folder.parent if inside else folder


def _folder_of(file: Path) -> Path:
    check_is_weights_file(file)
    if file.suffix in (".zip", ".tar", ".gz", ".7z", ".rar"):
        raise CheckpointError(f"{file} is an archive: unpack it and give the folder.")
    if file.suffix not in (".bin", ".safetensors", ".pt", ".json", ".model") and file.name != "latest":
        raise CheckpointError(f"{file} is a file. Give the folder with the model's files.")
    return file.parent


def _looks_sat(folder: Path) -> bool:
    """Return whether the folder is a sat checkpoint; if both configurations exist, the one with weights decides."""
    if not (folder / SAT_CONFIG).exists() and not (folder / "latest").exists():
        return False
    return not ((folder / CONFIG).exists() and _has_weights(folder))


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in WEIGHTS)


def _by_model_type(folder: Path) -> Layout:
    model_type = read_object(folder / CONFIG).get("model_type")
    if model_type == "visualglm":
        return "native"
    if model_type == "chatglm":
        return "hf"
    raise CheckpointError(
        f"{folder / CONFIG} says model_type {model_type!r}, and VisualGLM's are 'chatglm' (upstream) and 'visualglm'. "
        "Give a VisualGLM checkpoint."
    )


def _what_it_may_be(folder: Path) -> str:
    folders = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    inside = [child for child in folders if (child / CONFIG).exists() or (child / SAT_CONFIG).exists()]
    if inside:
        return f"did you mean {inside[0]}?"
    snapshots = sorted((folder / "snapshots").glob("*"))
    if snapshots:
        return f"it is a folder of the hub's cache; the files are in {snapshots[-1]}."
    if (folder / "adapter_config.json").exists():
        return "it holds an adapter (adapter_config.json); give the base model here and this folder as the adapter."
    if any(folder.glob("mp_rank_*")):
        return f"sat's {SAT_WEIGHTS} is missing."
    if _has_weights(folder):
        return f"it has weights but no {CONFIG}; download {CONFIG} from the same place."
    return f"it has neither {CONFIG} (Hugging Face, ours) nor {SAT_CONFIG} (sat). Give the folder that has one."
