"""Open a checkpoint of any format: detect it, then read configuration, names and shapes; no weights yet."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..errors import CheckpointError
from ..network.configuration import VisualGLMConfig
from .checkpoint import DESCRIPTION, HINT, Checkpoint, Layout
from .formats import hugging_face, native, sat, sat_lora
from .formats.detect import detect_layout
from .storage.read import readable


def open_checkpoint(
    folder: str | Path, *, expect: Layout | None = None, merge: bool = True, variant: str | None = None
) -> Checkpoint:
    """Detect a folder's layout and read names, shapes and configuration, but no weights.

    Args:
        folder: the folder, sat's step folder, or a file inside either.
        expect: reject any other layout; the error names the one found.
        merge: add a fine-tuned sat folder's LoRA to its weights; otherwise it is the checkpoint's `low_rank`.
        variant: transformers' (`model.fp16.safetensors`); by default the only one of a folder without plain weights.

    Raises:
        CheckpointError: it is not a VisualGLM checkpoint, or its files are broken.
        ConfigurationError: it is a checkpoint of another model.
    """
    with readable(Path(folder)):
        found, layout = detect_layout(Path(folder))
        if expect is not None and layout != expect:
            raise CheckpointError(f"{found} is {DESCRIPTION[layout]}, but {DESCRIPTION[expect]} is expected here{HINT}")
        readers = {"native": partial(native.read, variant=variant), "hf": partial(hugging_face.read, variant=variant)}
        checkpoint = readers.get(layout, sat.read)(found)
    return sat_lora.merge_lora(checkpoint) if merge else checkpoint


def read_config(folder: str | Path) -> VisualGLMConfig:
    """Read the configuration of a checkpoint without opening its weights.

    What only the weights say is left as in the file: `dtype` may be None, and `tie_word_embeddings` wrong.

    Raises:
        CheckpointError: it is not a VisualGLM checkpoint.
        ConfigurationError: it is a checkpoint of another model.
    """
    with readable(Path(folder)):
        found, layout = detect_layout(Path(folder))
        readers = {"native": native.read_config, "hf": hugging_face.read_config, "sat": sat.read_config}
        return readers[layout](found)[0]
