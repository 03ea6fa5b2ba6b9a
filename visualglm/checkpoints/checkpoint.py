"""`Checkpoint`: the configuration and tensors of a checkpoint of any layout, under our names.

`tensors` have the names, shapes and row orders of `VisualGLMForConditionalGeneration.state_dict()` and are read lazily.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import CheckpointError, ConfigurationError
from ..files.json_object import read_object
from ..network.configuration import VisualGLMConfig
from ..quantization.config import METHOD
from .low_rank_delta import LowRank
from .storage.lazy_tensor import LazyTensor, same_bits

Layout = Literal["native", "hf", "sat"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
WORD_EMBEDDINGS = "transformer.word_embeddings.weight"
LM_HEAD = "lm_head.weight"
DESCRIPTION: dict[Layout, str] = {
    "native": "a visualglm folder (safetensors)",
    "hf": "a Hugging Face folder (config.json)",
    "sat": "a sat folder (model_config.json, latest)",
}
HINT = ": use visualglm.load, which takes every layout, or `visualglm convert` it."


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk.

    `tensors`: all tensors of the model, without `lm_head.weight` if the file's equals the word embeddings (then
    `config.tie_word_embeddings` is true). `unused`: tensors in the files that no network reads (sat's position table,
    rotary buffers), under the file's names, so that converting there and back is the identity. `raw_config` is the
    unchanged configuration file. `low_rank` is the LoRA of a sat file that was not merged, by weight name.
    """

    folder: Path
    layout: Layout
    config: VisualGLMConfig
    tensors: Mapping[str, LazyTensor]
    raw_config: Mapping[str, Any]
    unused: Mapping[str, LazyTensor] = field(default_factory=dict)
    low_rank: Mapping[str, LowRank] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of the model's tensors in their stored dtypes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def read_config_file(
    file: Path, build: Callable[[dict[str, Any]], VisualGLMConfig]
) -> tuple[VisualGLMConfig, dict[str, Any]]:
    """Read a configuration file; return the configuration that `build` makes of its content, and the content.

    Raises:
        CheckpointError: the file cannot be read, or its weights are quantized by another program.
        ConfigurationError: `build` raised it; the message begins with the folder.
    """
    raw = read_object(file)
    _refuse_foreign_quantization(file.parent, raw)
    try:
        return build(dict(raw)), raw
    except ConfigurationError as error:
        raise ConfigurationError(f"{file.parent}: {error}") from error


def _refuse_foreign_quantization(folder: Path, raw: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` for weights that another program quantized, since loading them would run its code."""
    stored = raw.get("quantization_config", raw.get("compression_config"))
    if stored is None:
        return
    method = stored.get("quant_method") if isinstance(stored, Mapping) else stored
    if method != METHOD:
        raise CheckpointError(
            f"{folder} has a quantization_config of {str(method)[:60]!r}, and only what `visualglm quantize` writes is "
            "opened. Give the unquantized model, and quantize it with --quantize."
        )


def tie_head_if_equal(config: VisualGLMConfig, tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Tie `lm_head` to the word embeddings if, and only if, the file's two tensors are equal.

    Sets `config.tie_word_embeddings`; a file of a tied model may lack `lm_head.weight`.
    """
    head, words = tensors.get(LM_HEAD), tensors.get(WORD_EMBEDDINGS)
    if head is None or words is None or not head.dtype.is_floating_point:
        return tensors  # this package wrote the quantized file, so its configuration is right
    config.tie_word_embeddings = same_bits(head, words)
    if not config.tie_word_embeddings:
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name != LM_HEAD}


def infer_dtype(config: VisualGLMConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Set the dtype of a configuration without one to that of the word embeddings (most of the model has it)."""
    words = tensors.get(WORD_EMBEDDINGS)
    if config.dtype is None and words is not None and words.dtype.is_floating_point:
        config.dtype = words.dtype
