"""checkpoints/checkpoint: what every layout of files is turned into: a configuration and tensors under our names.

In: a folder of any layout. Out: `Checkpoint`, whose `tensors` have the names, shapes and row orders of
`VisualGLMForConditionalGeneration.state_dict()`, none of them read yet. Knows the layouts only by their names: each has
a file of its own. Knows nothing about networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..configuration import VisualGLMConfig
from ..errors import CheckpointError, TokenizerError
from ..quantization.plan import METHOD
from .lazy import LazyTensor, same_bits
from .weights_file import readable

if TYPE_CHECKING:
    from .low_rank import LowRank

Layout = Literal["native", "hf", "sat"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
WORD_EMBEDDINGS = "transformer.word_embeddings.weight"
LM_HEAD = "lm_head.weight"
VOCABULARY = "ice_text.model"
DESCRIPTION: dict[Layout, str] = {
    "native": "a visualglm folder (safetensors)",
    "hf": "a Hugging Face folder (config.json)",
    "sat": "a sat folder (model_config.json, latest)",
}
HINT = ": use visualglm.load, which takes every layout, or `visualglm convert` it."


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk.

    `tensors`: everything the model is made of, `lm_head.weight` left out where the file's equals the word embeddings
    (then `config.tie_word_embeddings` is true). `dead`: what the files carry but no network reads (sat's position
    table, rotary buffers), under the file's names, so that a conversion and back is the identity. `raw_config` is the
    configuration file as it stands. `low_rank` is what LoRA adds to weights, by their names, where it was not merged.
    """

    folder: Path
    layout: Layout
    config: VisualGLMConfig
    tensors: Mapping[str, LazyTensor]
    raw_config: Mapping[str, Any]
    dead: Mapping[str, LazyTensor] = field(default_factory=dict)
    low_rank: Mapping[str, LowRank] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of the model's tensors in their stored dtypes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def refuse_foreign_quantization(folder: Path, raw: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` for weights that another program stored in few bits: it would run code of its own."""
    stored = raw.get("quantization_config", raw.get("compression_config"))
    if stored is None:
        return
    method = stored.get("quant_method") if isinstance(stored, Mapping) else stored
    if method != METHOD:
        raise CheckpointError(
            f"{folder} has a quantization_config of {str(method)[:60]!r}, and only what `visualglm quantize` writes is "
            "opened: give the unquantized model, and quantize it with --quantize."
        )


def settle_head(config: VisualGLMConfig, tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Ties `lm_head` to the word embeddings where, and only where, the file's two tensors are equal.

    Sets `config.tie_word_embeddings`; a file of a tied model may lack `lm_head.weight`.
    """
    head, words = tensors.get(LM_HEAD), tensors.get(WORD_EMBEDDINGS)
    if head is None or words is None or not head.dtype.is_floating_point:
        return tensors  # what is quantized was written by this package, which says the truth about it
    config.tie_word_embeddings = same_bits(head, words)
    if not config.tie_word_embeddings:
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name != LM_HEAD}


def settle_dtype(config: VisualGLMConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """A configuration that names no dtype gets that of the word embeddings (most of the model is stored so)."""
    words = tensors.get(WORD_EMBEDDINGS)
    if config.dtype is None and words is not None and words.dtype.is_floating_point:
        config.dtype = words.dtype


def find_vocabulary(folder: str | Path) -> Path | None:
    """The SentencePiece file beside the weights (or beside sat's step folders), or None.

    `folder` may be what `open_checkpoint` takes: a file inside the folder, too. Loading the model never needs it.
    """
    folder = Path(folder) if Path(folder).is_dir() else Path(folder).parent
    places = [folder, folder.parent] if (folder / "mp_rank_00_model_states.pt").exists() else [folder]
    return next((place / VOCABULARY for place in places if (place / VOCABULARY).is_file()), None)


def given_vocabulary(path: str | Path) -> Path:
    """The vocabulary file that a user named, or the one in the folder that he named.

    Raises:
        TokenizerError: there is none.
    """
    path = Path(path)
    found = path if path.is_file() else find_vocabulary(path) if path.is_dir() else None
    if found is None:
        raise TokenizerError(
            f"{path} is no vocabulary file and has no {VOCABULARY}: give the file of VisualGLM or ChatGLM-6B, or its "
            "folder."
        )
    return found


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
    from . import hugging_face, low_rank, native, sat
    from .recognise import recognise

    with readable(Path(folder)):
        found, layout = recognise(Path(folder))
        if expect is not None and layout != expect:
            raise CheckpointError(f"{found} is {DESCRIPTION[layout]}, but {DESCRIPTION[expect]} is expected here{HINT}")
        checkpoint = {"native": native.read, "hf": hugging_face.read, "sat": sat.read}[layout](found)
    return low_rank.merged(checkpoint) if merge else checkpoint


def read_config(folder: str | Path) -> VisualGLMConfig:
    """The configuration of what `open_checkpoint` would open, without opening a file of weights.

    What only the weights say is left as the file has it: `dtype` may be None, and `tie_word_embeddings` be wrong.

    Raises:
        CheckpointError: it is no VisualGLM checkpoint.
        ConfigurationError: it is a checkpoint of another model.
    """
    from . import hugging_face, native, sat
    from .recognise import recognise

    with readable(Path(folder)):
        found, layout = recognise(Path(folder))
        readers = {"native": native.read_config, "hf": hugging_face.read_config, "sat": sat.read_config}
        return readers[layout](found)[0]
