"""What every layout of files is turned into: a configuration and tensors under our names.

In: a folder of any layout. Out: `Checkpoint`, whose `tensors` have the names, shapes and row orders of
`VisualGLMForConditionalGeneration.state_dict()`, none of them read yet. Knows the layouts only by their names: each has
a file of its own. Knows nothing about networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..network.configuration import VisualGLMConfig
from .storage.read import readable

if TYPE_CHECKING:
    pass
from .checkpoint import DESCRIPTION, HINT, Checkpoint, Layout


def open_checkpoint(folder: str | Path, *, expect: Layout | None = None, merge: bool = True) -> Checkpoint:
    """Recognises a folder's layout and reads names, shapes and configuration; no weights yet.

    Args:
        folder: the folder, sat's step folder, or a file inside either.
        expect: refuse any other layout, naming the one found.
        merge: add a fine-tuned sat folder's LoRA to its weights; else it is the checkpoint's `sat_lora`.

    Raises:
        CheckpointError: it is no VisualGLM checkpoint, or its files are broken.
        ConfigurationError: it is a checkpoint of another model.
    """
    from .formats import hugging_face, native, sat, sat_lora
    from .formats.detect import detect_layout

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
    from .formats import hugging_face, native, sat
    from .formats.detect import detect_layout

    with readable(Path(folder)):
        found, layout = detect_layout(Path(folder))
        readers = {"native": native.read_config, "hf": hugging_face.read_config, "sat": sat.read_config}
        return readers[layout](found)[0]
