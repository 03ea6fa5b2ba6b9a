"""Estimate how much memory a model needs, from the headers of its files.

In: a checkpoint, or the 6B's configuration without one, and how it will be opened. Out: bytes of weights, cache and
loading, and the memory of this machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..hardware.memory import anonymous_memory
from ..network.configuration import VisualGLMConfig
from ..network.stem import widest_map
from ..network.visualglm import VisualGLMNetwork
from ..quantization import QuantizationConfig
from .checkpoint import Checkpoint
from .quantize import SCALE, empty_model, plan_of_config, quantized
from .storage.lazy_tensor import LazyTensor

WORK_OF_A_TOKEN = 4
"""Rows of a block's inner size that are in memory at once per token of the prompt or patch of the image."""
PROGRAM = 300_000_000
"""Bytes that Python, torch and transformers take, if the machine does not report it."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory in bytes.

    `language`, `vocabulary` and `image` are weights; `cache` is that of one dialogue of `context` tokens; `work` is the
    activations of one pass; `program` is Python, torch and transformers, in the machine's memory.
    """

    language: int
    vocabulary: int
    image: int
    cache: int
    work: int
    program: int
    context: int
    dtype: str
    bits: int

    @property
    def weights(self) -> int:
        """Bytes of the whole model."""
        return self.language + self.vocabulary + self.image

    @property
    def loading(self) -> int:
        """Peak while the model is opened: only the finished weights are held."""
        return self.weights + self.program

    @property
    def running(self) -> int:
        """Peak during a dialogue of that length."""
        return self.weights + self.cache + self.work + self.program


def dummy_checkpoint(config: VisualGLMConfig) -> Checkpoint:
    """Return a float16 checkpoint that is not on disk, to estimate what its download would need."""
    state = empty_model(VisualGLMNetwork, config).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    tensors = {name: LazyTensor(shape, torch.float16, _nothing) for name, shape in shapes.items()}
    return Checkpoint(Path("6b"), "native", config, tensors, {})


def estimate_memory(
    checkpoint: Checkpoint, dtype: torch.dtype, plan: QuantizationConfig | None = None, context: int = 1024
) -> MemoryEstimate:
    """Estimate the memory to open the checkpoint in `dtype`, quantized by `plan`, and run a dialogue of `context`
    tokens.

    Raises:
        UsageError: it is quantized already, and a plan was given.
    """
    if plan is not None:
        checkpoint = quantized(checkpoint, plan, VisualGLMNetwork)
    config, tensors, stored = checkpoint.config, checkpoint.tensors, plan_of_config(checkpoint.config)
    vision, width = config.vision, dtype.itemsize
    pixels = vision.num_positions * int(vision.inner_hidden_size or 0)
    if vision.stem is not None:
        pixels = max(pixels, widest_map(vision.stem, vision.image_size))
    words = context * int(config.inner_hidden_size)
    return MemoryEstimate(
        language=_bytes(tensors, dtype, "transformer.", without="transformer.word_embeddings."),
        vocabulary=_bytes(tensors, dtype, "transformer.word_embeddings.") + _bytes(tensors, dtype, "lm_head."),
        image=_bytes(tensors, dtype, "image_encoder."),
        cache=2 * config.num_layers * config.hidden_size * context * width,
        work=WORK_OF_A_TOKEN * max(pixels, words) * width,
        program=anonymous_memory() or PROGRAM,
        context=context,
        dtype=str(dtype).removeprefix("torch."),
        bits=stored.bits if stored is not None else 8 * width,
    )


def _bytes(tensors: Mapping[str, LazyTensor], dtype: torch.dtype, start: str, without: str = "\0") -> int:
    """Return the bytes of tensors with that name prefix, in `dtype` unless they are quantized."""

    def size(name: str, tensor: LazyTensor) -> int:
        kept = name.endswith(SCALE) or not tensor.dtype.is_floating_point
        return tensor.nbytes if kept else math.prod(tensor.shape) * dtype.itemsize

    return sum(size(*item) for item in tensors.items() if item[0].startswith(start) and not item[0].startswith(without))


def _nothing() -> torch.Tensor:
    raise RuntimeError("an estimated checkpoint has no weights")
