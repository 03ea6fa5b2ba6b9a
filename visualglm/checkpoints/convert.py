"""Convert a checkpoint from one layout to another, tensor by tensor.

In: a folder of any layout. Out: a new folder, complete or absent (`storage/atomic_folder.py`). dtypes, unused tensors
and unknown configuration keys are kept; vocabulary, tokenizer and generation settings are copied; `fingerprint.json`
records what the *source* computes. `auto_map` (code to download and run) is kept only from Hugging Face layout to
Hugging Face layout.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UsageError
from ..files.json_object import read_object
from ..hardware.memory import in_words
from ..hub.local_folder import local_folder
from ..network.configuration import VisualGLMConfig
from ..network.vision import is_of_stem
from ..network.visualglm import VisualGLMNetwork
from ..preprocessing.images import ImageSource, VisualGLMImageProcessor
from ..preprocessing.sentencepiece_vocabulary import VOCABULARY_FILE, open_vocabulary
from ..quantization import QuantizationConfig
from . import fingerprint, tensor_check
from .calibration import importance
from .checkpoint import LAYOUTS, Checkpoint, Layout
from .formats import hugging_face, native, sat, unused_tensors
from .formats.detect import root_folder
from .load import GENERATION_CONFIG, generation_defaults
from .open import open_checkpoint
from .quantize import plan_of_config, quantized, with_default_modules
from .storage.atomic_folder import atomic_folder, check_free_space, check_not_nested, validate_target
from .storage.read import readable
from .vocabulary_file import find_vocabulary, resolve_vocabulary

MAX_SHARD_SIZE = 3_500_000_000  # five files at full size, as upstream published it
TOKENIZER_CONFIG = "tokenizer_config.json"
IMAGE_CONFIGS = ("preprocessor_config.json", "processor_config.json")
COMPANIONS = (
    *IMAGE_CONFIGS,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    GENERATION_CONFIG,
    "LICENSE",
    "MODEL_LICENSE",
)


def convert(
    source: str | Path,
    target: str | Path,
    to: Layout = "native",
    *,
    with_fingerprint: bool = True,
    overwrite: bool = False,
    tokenizer: str | Path | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    quantize: QuantizationConfig | None = None,
    calibrate: Sequence[ImageSource] = (),
    without_stem: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> Path:
    """Write the checkpoint `source` (a folder of any layout, or a hub id) into the folder `target`.

    Args:
        to: `native` (safetensors), `hf` (upstream's Hugging Face files), `sat` (upstream's sat files, newer order).
        with_fingerprint: run the model layer by layer and store what it computes.
        overwrite: replace the target if it holds only a checkpoint.
        tokenizer: a vocabulary file, or a folder with one, if the source has none.
        max_shard_size: bytes in one weights file (sat always has one).
        quantize: also quantize linears (`quantize.plan`); native layout only.
        calibrate: images for activation-aware 4-bit scales; the model reads them layer by layer.
        without_stem: leave the convolutional stem out, if the model has one; upstream's layouts cannot hold it, and
            the answers change.
        report: called with a message for each step.

    Raises:
        CheckpointError: the source is broken, holds NaN or infinite values, or does not compute what its own
            `fingerprint.json` says.
        TokenizerError: the given vocabulary file is not a vocabulary file.
        UsageError: the target cannot be written or replaced, or `to` is not a layout.
    """
    if to not in LAYOUTS:
        raise UsageError(f"--to {to} is not a layout. Write one of {', '.join(LAYOUTS)}.")
    place = validate_target(Path(target), overwrite)
    given = None if tokenizer is None else _whole_vocabulary(tokenizer)
    found = local_folder(source)
    check_not_nested(place, root_folder(found))
    checkpoint = open_checkpoint(found)
    tensor_check.check(checkpoint, tensor_check.expected_shapes(VisualGLMNetwork, checkpoint.config))
    stored = fingerprint.read_fingerprint(checkpoint.folder) if with_fingerprint and quantize is None else None
    if without_stem and checkpoint.config.vision.stem is not None:
        checkpoint, stored = _without_stem(checkpoint), None
    original, vocabulary = checkpoint, given or find_vocabulary(checkpoint.folder)
    if quantize is not None:
        checkpoint = quantized(original, quantize, VisualGLMNetwork)
    _refuse_bits_without_a_place(checkpoint, to)
    check_free_space(place, checkpoint.nbytes)
    if quantize is not None and calibrate:
        report("calibrating on the images, layer by layer")
        checkpoint = _calibrated(original, quantize, calibrate, vocabulary)
    with atomic_folder(place, overwrite) as folder:
        report(f"writing {len(checkpoint.tensors)} tensors, {in_words(checkpoint.nbytes)}")
        _write_weights(folder, tensor_check.finite_when_read(checkpoint), to, max_shard_size)
        _take_along(folder, checkpoint, to, vocabulary)
        if with_fingerprint:
            report("computing the fingerprint, layer by layer")
            written = (
                checkpoint if quantize is None else open_checkpoint(folder)
            )  # reuse the quantized tensors instead of quantizing again
            fingerprint.write_fingerprint(folder, _fingerprint_of_source(written, stored))
    return Path(target)


def _without_stem(checkpoint: Checkpoint) -> Checkpoint:
    config = VisualGLMConfig.from_dict(checkpoint.config.to_dict())
    config.vision.stem, config.vision.concepts = None, 0
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not is_of_stem(name)}
    return replace(checkpoint, config=config, tensors=tensors)


def _calibrated(
    checkpoint: Checkpoint, plan: QuantizationConfig, images: Sequence[ImageSource], vocabulary: Path | None
) -> Checkpoint:
    if 4 not in (with_default_modules(plan).modules or {}).values():
        raise UsageError("Calibration chooses the scales of 4-bit weights, and there are none. Leave --calibrate out.")
    return quantized(checkpoint, plan, VisualGLMNetwork, importance(checkpoint, images, vocabulary))


def _refuse_bits_without_a_place(checkpoint: Checkpoint, to: Layout) -> None:
    stored = plan_of_config(checkpoint.config)
    if stored is not None and to != "native":
        raise UsageError(
            f"{checkpoint.folder} is in {stored.bits} bits, which upstream's layouts have no place for. Convert the "
            "unquantized checkpoint."
        )


def _write_weights(folder: Path, checkpoint: Checkpoint, to: Layout, max_shard_size: int) -> None:
    if to == "native":
        native.write(folder, checkpoint, max_shard_size)
        unused_tensors.write_carried(folder, checkpoint, checkpoint.tensors)
    elif to == "hf":
        hugging_face.write(folder, checkpoint, max_shard_size)
        unused_tensors.write_carried(folder, checkpoint, hugging_face.stored_tensors(checkpoint))
    else:
        sat.write(folder, checkpoint)
        unused_tensors.write_carried(folder, checkpoint, sat.stored_tensors(checkpoint))


def _fingerprint_of_source(checkpoint: Checkpoint, stored: dict[str, Any] | None) -> dict[str, Any]:
    found = fingerprint.record(checkpoint)
    faults = fingerprint.differences(stored, found) if stored else []
    if faults:
        raise CheckpointError(
            f"{checkpoint.folder} is not what its {fingerprint.FILE} recorded: {'; '.join(faults)}; "
            f"get the files again, or delete {fingerprint.FILE} if you changed the weights yourself."
        )
    return found


def _whole_vocabulary(tokenizer: str | Path) -> Path:
    found = resolve_vocabulary(tokenizer)
    with readable(found):
        open_vocabulary(found)
    return found


def _take_along(folder: Path, checkpoint: Checkpoint, to: Layout, vocabulary: Path | None) -> None:
    defaults = generation_defaults(checkpoint)
    for name in COMPANIONS:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    if not (folder / GENERATION_CONFIG).exists():
        defaults.save_pretrained(folder)
    if to == "native" and not any((folder / name).exists() for name in IMAGE_CONFIGS):
        VisualGLMImageProcessor.for_config(checkpoint.config).save_pretrained(folder)
    if vocabulary is None:
        return
    shutil.copyfile(vocabulary, folder / VOCABULARY_FILE)
    settings = vocabulary.parent / TOKENIZER_CONFIG
    raw = (
        read_object(settings) if settings.is_file() else {"tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": 0}
    )
    if (checkpoint.layout, to) != ("hf", "hf"):
        raw.pop("auto_map", None)
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
