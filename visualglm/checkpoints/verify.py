"""Verify that a checkpoint is complete and computes what it should, in six checks of one line each.

In: a folder. Out: `Check`s: files, tensors, numbers, fingerprint, image, vocabulary; `visualglm doctor` prints them.
Holds one block of the model in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..errors import CheckpointError, VisualGLMError
from ..files.untrusted_files import read_bytes
from ..hardware.memory import in_words
from ..network.configuration import VisualGLMConfig
from ..network.visualglm import VisualGLMNetwork
from . import fingerprint, tensor_check
from .checkpoint import Checkpoint
from .layerwise_forward import ForwardRecord
from .open import open_checkpoint
from .storage.lazy_tensor import is_finite
from .vocabulary_file import find_vocabulary

SPECIAL_PIECES = {
    "<sop>": "bos_token_id",
    "<eop>": "eos_token_id",
    "[MASK]": "mask_token_id",
    "[gMASK]": "gmask_token_id",
    "<pad>": "pad_token_id",
    "<unk>": "unk_token_id",
}


@dataclass(frozen=True)
class Check:
    """One result: `passed`, `failed`, or `skipped` (nothing to check, or an earlier check failed)."""

    name: str
    result: Literal["passed", "failed", "skipped"]
    detail: str


def verify(folder: str | Path, with_fingerprint: bool = True) -> Iterator[Check]:
    """Run the checks, cheapest first, and yield each as it ends; compare the fingerprint if asked."""
    try:
        checkpoint = open_checkpoint(folder)
    except VisualGLMError as error:
        yield Check("files", "failed", str(error))
        return
    size = in_words(checkpoint.nbytes)
    yield Check("files", "passed", f"{checkpoint.layout} layout, {len(checkpoint.tensors)} tensors, {size}")
    tensors = _tensors(checkpoint)
    yield tensors
    if tensors.result == "passed":
        yield _numbers(checkpoint)
        measured = fingerprint.measure(checkpoint)
        yield (
            _fingerprint(checkpoint, measured)
            if with_fingerprint
            else Check("fingerprint", "skipped", "not compared, as asked")
        )
        yield _image(measured)
    yield _vocabulary(checkpoint)


def _tensors(checkpoint: Checkpoint) -> Check:
    expected = tensor_check.expected_shapes(VisualGLMNetwork, checkpoint.config)
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    faults = tensor_check.differences(found, expected)
    if faults:
        return Check("tensors", "failed", "; ".join(faults))
    return Check("tensors", "passed", "all there, with the right shapes, and none too many")


def _numbers(checkpoint: Checkpoint) -> Check:
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in checkpoint.tensors.values())
    found = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.most_common())
    broken = [name for name, tensor in checkpoint.tensors.items() if not is_finite(tensor.read())]
    if broken:
        return Check("numbers", "failed", f"NaN or infinite values in {len(broken)} tensors: {', '.join(broken[:8])}")
    return Check("numbers", "passed", f"no NaN, no infinity ({found})")


def _fingerprint(checkpoint: Checkpoint, measured: ForwardRecord) -> Check:
    try:
        stored = fingerprint.read_fingerprint(checkpoint.folder)
    except CheckpointError as error:
        return Check("fingerprint", "failed", str(error))
    if stored is None:
        return Check("fingerprint", "passed", "no fingerprint stored (visualglm convert stores one)")
    faults = fingerprint.differences(stored, fingerprint.record(checkpoint, measured))
    if faults:
        return Check("fingerprint", "failed", "; ".join(faults))
    return Check("fingerprint", "passed", "tensors, blocks and logits are those of the conversion")


def _image(measured: ForwardRecord) -> Check:
    """Check that the two rows of the fixed input, which differ only in their image, have different logits."""
    one, other = measured.logits
    change = (one - other).abs().max().item() / max(one.abs().max().item(), torch.finfo(torch.float32).tiny)
    if not change > 1e-5:
        return Check("image", "failed", "two different images give the same logits: the model does not see")
    return Check("image", "passed", f"another image changes the logits (by {change:.2g} of the largest)")


def _vocabulary(checkpoint: Checkpoint) -> Check:
    path = find_vocabulary(checkpoint.folder)
    if path is None:
        return Check("vocabulary", "skipped", "no ice_text.model beside the weights: pass --tokenizer when you ask")
    fault = _vocabulary_fault(path, checkpoint.config)
    return Check("vocabulary", "failed" if fault else "passed", fault or f"{path.name} fits the model")


def _vocabulary_fault(path: Path, config: VisualGLMConfig) -> str | None:
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=read_bytes(path))
    except (RuntimeError, OSError):
        return f"{path} is not a SentencePiece model. Download it again"
    if pieces.get_piece_size() > config.vocab_size:
        return f"{path} has {pieces.get_piece_size()} pieces, the model only {config.vocab_size} rows"
    for piece, key in SPECIAL_PIECES.items():
        if pieces.piece_to_id(piece) != getattr(config, key):
            return (
                f"{path} is another model's vocabulary: it has {piece} at {pieces.piece_to_id(piece)}, the "
                f"configuration's {key} is {getattr(config, key)}"
            )
    return None
