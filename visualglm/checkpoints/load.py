"""Load a model with its weights from a folder of any layout or a hub id.

The files' headers are checked against the model before a tensor is read. The tensors then go through transformers' own
loader, so that dtype, device maps, tensor parallelism and quantization work as usual: the native layout as a folder,
upstream's as a mapping of lazy tensors. Peak memory is near one copy of the model in its target dtype.
"""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from ..errors import CheckpointError
from ..files.json_object import read_object
from ..hub.local_folder import local_folder
from ..kernels.fast_linear import use_fast_linear
from ..network.configuration import VisualGLMConfig
from ..network.generation_checks import fault_of_file
from ..network.sampling import PRESETS
from ..network.vision import freeze_stem
from ..quantization import QuantizationConfig
from . import tensor_check
from .checkpoint import Checkpoint
from .open import open_checkpoint
from .quantize import plan_of_config, quantized
from .storage.shards import only_variant

GENERATION_CONFIG = "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"
SPECIAL_TOKENS = ("eos_token_id", "pad_token_id", "bos_token_id")
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
LOADING_PROBLEM_KEYS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors")
NOT_CONFIGURATION = ("dtype", "torch_dtype", "quantization_config", "model_type", "architectures")


def load_model(
    cls: Any,
    name_or_dir: str | PathLike[str] | None,
    *args: Any,
    config: Any = None,
    merge_lora: bool = True,
    **kwargs: Any,
) -> Any:
    """Load the model of class `cls` from a checkpoint; `from_pretrained` calls this.

    Args:
        cls: `VisualGLMForConditionalGeneration` or a subclass.
        name_or_dir: a folder of any layout, a file inside one, or a hub id; None with `state_dict` as in transformers.
        config: a `VisualGLMConfig` to use instead of the folder's. A larger `image_size` interpolates the ViT's
            position table.
        merge_lora: merge a fine-tuned sat folder's LoRA into the weights; otherwise it is left out.
        kwargs: `from_pretrained`'s of transformers, or fields of the configuration.

    Raises:
        CheckpointError: the files are not a complete VisualGLM checkpoint.
        ConfigurationError: they are a checkpoint of another model.
    """
    if name_or_dir is None:
        return _transformers_load(cls, None, *args, config=config, **kwargs)
    options = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
    _refuse_base_from_file(name_or_dir, kwargs.pop("adapter_kwargs", None) or {})
    folder = local_folder(name_or_dir, **{key: value for key, value in options.items() if value is not None})
    folder /= kwargs.pop("subfolder", "")
    checkpoint = open_checkpoint(folder, merge=merge_lora, variant=kwargs.get("variant"))
    config, image_size = _configuration(checkpoint, config, kwargs)
    with_info = kwargs.pop("output_loading_info", False)
    if getattr(config, "quantization_config", None) is None or plan_of_config(
        config
    ):  # other quantizers check their own tensors
        tensor_check.check(checkpoint, tensor_check.expected_shapes(cls, config))
    checkpoint, config = _quantized(cls, checkpoint, config, kwargs)
    model, info = _read_numbers(cls, checkpoint, *args, config=config, **kwargs)
    _check_again(checkpoint, info)
    tensor_check.check_overflow(model, checkpoint)
    model.config.name_or_path = model.name_or_path = str(name_or_dir)
    if image_size != config.vision.image_size:
        model.resize_image_size(image_size)
    freeze_stem(model)
    use_fast_linear(model)
    return (model, info) if with_info else model


def _refuse_base_from_file(name_or_dir: str | PathLike[str], adapter: dict[str, Any]) -> None:
    """Raise `CheckpointError` if transformers' Auto classes were given an adapter whose file named this model."""
    place = adapter.get("_adapter_model_path")
    if place is not None and str(place) != str(name_or_dir):
        raise CheckpointError(
            f"{place} is an adapter, and its file names the model {name_or_dir}. Open the model yourself, and add the "
            "adapter with visualglm.load(MODEL, adapter=...)."
        )


def _quantized(
    cls: Any, checkpoint: Checkpoint, config: VisualGLMConfig, kwargs: dict[str, Any]
) -> tuple[Checkpoint, VisualGLMConfig]:
    """Quantize both as requested by our own `quantization_config` in the arguments, which is removed from them."""
    if not isinstance(kwargs.get("quantization_config"), QuantizationConfig):
        return checkpoint, config
    made = quantized(replace(checkpoint, config=config), kwargs.pop("quantization_config"), cls)
    made.config._attn_implementation = config._attn_implementation
    return made, made.config


def _configuration(
    checkpoint: Checkpoint, given: VisualGLMConfig | None, kwargs: dict[str, Any]
) -> tuple[VisualGLMConfig, int]:
    """Return the configuration to build the model with, and the requested image size.

    Its fields are removed from `kwargs`. Whether the head is tied, what is quantized, and the size of the position
    table come from the files.
    """
    stored = checkpoint.config
    wanted = (given or stored).to_dict()
    fields = [key for key in kwargs if key in wanted and key not in NOT_CONFIGURATION]
    for key in fields:
        value = kwargs.pop(key)
        wanted[key] = wanted[key] | value if isinstance(wanted[key], dict) and isinstance(value, dict) else value
    config = VisualGLMConfig.from_dict(wanted)
    config.tie_word_embeddings = stored.tie_word_embeddings
    if hasattr(stored, "quantization_config"):
        config.quantization_config = stored.quantization_config  # type: ignore[attr-defined]
    config.dtype = config.dtype or stored.dtype
    if given is not None:
        config._attn_implementation = given._attn_implementation
    image_size = config.vision.image_size
    config.vision.image_size = stored.vision.image_size
    return config, image_size


def _read_numbers(cls: Any, checkpoint: Checkpoint, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    if kwargs.get("generation_config") is None:
        kwargs["generation_config"] = generation_defaults(checkpoint)
    as_it_lies = plan_of_config(checkpoint.config) is None or "quantization_config" in checkpoint.raw_config
    # from a folder transformers would also load an adapter in it, which was not requested
    as_it_lies = as_it_lies and not (checkpoint.folder / ADAPTER_CONFIG).exists()
    if checkpoint.layout == "native" and as_it_lies:
        kwargs["variant"] = kwargs.get("variant") or only_variant(checkpoint.folder)
        return _transformers_load(cls, str(checkpoint.folder), *args, output_loading_info=True, **kwargs)
    model, info = _transformers_load(
        cls, None, *args, state_dict=dict(checkpoint.tensors), output_loading_info=True, **kwargs
    )
    _own_memory(model, checkpoint)
    return model, info


def generation_defaults(checkpoint: Checkpoint) -> GenerationConfig:
    """Return the folder's `generation_config.json`, or upstream's defaults: its folders have no such file.

    Raises:
        CheckpointError: the file cannot be read, or transformers rejects its values.
    """
    file = checkpoint.folder / GENERATION_CONFIG
    if file.exists():
        return _stored_defaults(file, checkpoint.config)
    defaults = GenerationConfig.from_model_config(checkpoint.config)
    if checkpoint.layout != "native":
        defaults.update(**PRESETS["hf"])
    return defaults


def _stored_defaults(file: Path, config: VisualGLMConfig) -> GenerationConfig:
    raw = read_object(file)
    fault = fault_of_file(raw, config.vocab_size)
    if fault is not None:
        raise CheckpointError(f"{file} has a value that cannot be used ({fault}). Correct or delete it.")
    try:
        stored = GenerationConfig.from_dict(raw)
    except (TypeError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{file} has values that transformers rejects ({reason}). Correct or delete it."
        ) from error
    for key in SPECIAL_TOKENS:
        if getattr(stored, key) is None:  # an answer ends at <eop>, whoever wrote the file
            setattr(stored, key, getattr(config, key))
    return stored


def _transformers_load(cls: Any, *args: Any, **kwargs: Any) -> Any:
    return PreTrainedModel.from_pretrained.__func__(cls, *args, **kwargs)


def _own_memory(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Copy parameters that are still pages of the checkpoint's files, one at a time.

    transformers keeps a mapped tensor if its dtype fits; overwriting the same file, or moving it on a network disk,
    would then change or remove the model's weights.
    """
    pages = {tensor.read().data_ptr() for tensor in checkpoint.tensors.values() if tensor.mapped}
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() in pages:
            parameter.data = parameter.data.clone()


def _check_again(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """Check that the report of transformers' loader agrees with the headers."""
    faults = [
        f"{key.removesuffix('_keys')}: {sorted(map(str, info[key]))[:8]}"
        for key in LOADING_PROBLEM_KEYS
        if info.get(key)
    ]
    if faults:
        raise CheckpointError(f"{checkpoint.folder} was not loaded completely: {'; '.join(faults)}.")
