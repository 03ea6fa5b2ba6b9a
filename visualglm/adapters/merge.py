"""Merge an adapter into its base model, as one model in any layout.

LoRA is added to the weights by PEFT; a prefix stays a prefix inside the model, which the native and sat layouts can
store and upstream's Hugging Face layout cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checkpoints import Layout, convert, find_vocabulary, local_folder
from ..checkpoints.storage.atomic_folder import check_free_space, validate_target
from ..errors import CheckpointError, UsageError
from ..files.atomic import explain_write_errors, scratch_folder
from ..model import VisualGLMForConditionalGeneration
from .files import adapter_folder, is_quantized, read_adapter_config, require_same_base
from .manager import LORA, PREFIX, attach_adapter
from .prefix_adapter import stored_prefix
from .sat_adapters import upstream_folder


def merge(
    base: str | Path,
    adapter: str | Path,
    target: str | Path,
    to: Layout = "native",
    *,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> Path:
    """Write the merged model into the folder `target`, in the dtype of the base's files.

    A QLoRA adapter is merged into the base's 16-bit files: it was trained on rounded copies of them.

    Raises:
        CheckpointError: the base cannot be opened, the adapter was trained on another one, or a merged weight would be
            NaN or infinite.
        UsageError: there is no adapter, the base is quantized, or the layout cannot store a prefix.
    """
    if upstream_folder(adapter) is not None:
        raise UsageError(
            f"{adapter} was saved by upstream's fine-tuning and holds its base. Write it merged with "
            f"`visualglm convert {adapter} {target} --to {to}`."
        )
    folder = adapter_folder(adapter)
    kind = read_adapter_config(folder).get("peft_type")
    if kind == PREFIX and to == "hf":
        raise UsageError(
            "A prefix cannot be merged into weights, and upstream's Hugging Face layout has no place for one. Write "
            "--to native or --to sat, or use it with --adapter."
        )
    if is_quantized(base):
        raise UsageError(f"{base} is quantized, and nothing can be added to its weights. Merge first, then quantize.")
    require_same_base(folder, base)
    place = validate_target(Path(target), overwrite)
    report(f"opening {base}")
    model = VisualGLMForConditionalGeneration.from_pretrained(str(base), dtype="auto").eval()
    check_free_space(place, 2 * sum(tensor.nbytes for tensor in model.parameters()))  # saved, then converted
    merged = _with_prefix(model, folder) if kind == PREFIX else _with_lora(model, folder, kind)
    with scratch_folder(place.parent, "merged") as scratch:
        with explain_write_errors(place):
            merged.save_pretrained(scratch)
        vocabulary = find_vocabulary(local_folder(base))
        return convert(scratch, target, to, overwrite=overwrite, tokenizer=vocabulary, report=report)


def _with_prefix(model: Any, folder: Path) -> Any:
    mixin = stored_prefix(model, folder)
    if "ptuning" in model.mixins:
        raise UsageError("This model has a prefix already, and there is room for one. Use the adapter with --adapter.")
    model.config.prefix_length = mixin.prefix[0].shape[2]
    model.add_mixin("ptuning", mixin)
    return model


def _with_lora(model: Any, folder: Path, kind: Any) -> Any:
    if kind != LORA:
        raise UsageError(f"{folder} is an adapter of kind {kind}. Give one of kind {LORA} or {PREFIX}.")
    tuner = attach_adapter(model, folder, "default")
    try:
        merged = tuner.merge_and_unload(safe_merge=True)
    except ValueError as error:  # PEFT found NaN or infinity
        raise CheckpointError(
            f"{folder} cannot be merged, because a weight would be NaN or infinite. Use it with --adapter, or check "
            "model and adapter with `visualglm doctor --adapter`."
        ) from error
    if hasattr(merged, "peft_config"):
        del merged.peft_config
    merged._hf_peft_config_loaded = False  # otherwise transformers would save an adapter
    return merged
