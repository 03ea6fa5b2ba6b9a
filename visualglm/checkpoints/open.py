"""Open a checkpoint of any format: detect it, then read configuration, names and shapes; no weights yet."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from ..network.configuration import VisualGLMConfig
from .checkpoint import DESCRIPTION, HINT, Checkpoint, Layout
from .formats import hugging_face, native, sat, sat_lora
from .formats.detect import detect_layout
from .storage.read import readable


def open_checkpoint(folder: str | Path, *, expect: Layout | None = None, merge: bool = True) -> Checkpoint:
    """Recognises a folder's layout and reads names, shapes and configuration; no weights yet.

    Args:
        folder: the folder, sat's step folder, or a file inside either.
        expect: refuse any other layout, naming the one found.
        merge: add a fine-tuned sat folder's LoRA to its weights; else it is the checkpoint's `low_rank`.

    Raises:
        CheckpointError: it is no VisualGLM checkpoint, or its files are broken.
        ConfigurationError: it is a checkpoint of another model.
    """
    with readable(Path(folder)):
        found, layout = detect_layout(Path(folder))
        if expect is not None and layout != expect:
            raise CheckpointError(f"{found} is {DESCRIPTION[layout]}, but {DESCRIPTION[expect]} is expected here{HINT}")
        checkpoint = {"native": native.read, "hf": hugging_face.read, "sat": sat.read}[layout](found)
    return sat_lora.merge_lora(checkpoint) if merge else checkpoint


def read_config(folder: str | Path) -> VisualGLMConfig:
    """The configuration of what `open_checkpoint` would open, without opening a file of weights.

    What only the weights say is left as the file has it: `dtype` may be None, and `tie_word_embeddings` be wrong.

    Raises:
        CheckpointError: it is no VisualGLM checkpoint.
        ConfigurationError: it is a checkpoint of another model.
    """
    with readable(Path(folder)):
        found, layout = detect_layout(Path(folder))
        readers = {"native": native.read_config, "hf": hugging_face.read_config, "sat": sat.read_config}
        return readers[layout](found)[0]
