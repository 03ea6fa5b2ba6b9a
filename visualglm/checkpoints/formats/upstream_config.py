"""Translate `VisualGLMConfig` into upstream's two configuration files, and sat's into Hugging Face's.

Keys and their order are upstream's (`configuration_chatglm.py`; sat's `model_config.json` as users posted it in issue
239). Keys that only upstream's code needs (`layernorm_order`, `pre_len`, ...) are written as constants; unknown keys
are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...network.configuration import QFormerConfig, VisionConfig, VisualGLMConfig

SAT_CONSTANTS = {
    "model_class": "VisualGLMModel",
    "tokenizer_type": "THUDM/chatglm-6b",
    "layernorm_order": "post",
    "model_parallel_size": 1,
}
HF_CONSTANTS = {"position_encoding_2d": True}
FINE_TUNING = ("use_lora", "use_qlora", "lora_rank", "layer_range", "use_ptuning", "pre_seq_len")
"""Keys that sat's fine-tuning adds to `model_config.json` to build the file's layers; its tensors imply the same."""


def from_sat(raw: dict[str, Any]) -> dict[str, Any]:
    """Translate sat's `model_config.json` into the keys of upstream's `config.json`.

    sat rounds the rotary frequencies to the compute dtype; it stores no id of `<eop>`, which follows `<sop>`.
    """
    elsewhere = ("eva_args", "qformer_args", *SAT_CONSTANTS, *FINE_TUNING)
    ours = {key: value for key, value in raw.items() if key not in elsewhere}
    ours["eva_config"], ours["qformer_config"] = raw["eva_args"], raw["qformer_args"]
    ours.setdefault("inner_hidden_size", 4 * raw["hidden_size"])
    ours.setdefault("rotary_frequencies", "by_dtype")
    if raw.get("use_ptuning"):
        ours["prefix_length"] = raw["pre_seq_len"]
    if "bos_token_id" in raw:
        ours.setdefault("eos_token_id", raw["bos_token_id"] + 1)
    return ours


def check_no_stem(folder: Path, config: VisualGLMConfig) -> None:
    """Raise `UsageError` if the model has a convolutional stem, of which upstream's code knows nothing."""
    if config.vision.stem is not None:
        raise UsageError(
            f"{folder} has a convolutional stem, which upstream's layouts cannot hold. Write --to native, or leave it "
            "out, which changes the answers: `visualglm convert MODEL NEW --to hf --without-stem`."
        )


def hugging_face(config: VisualGLMConfig) -> dict[str, Any]:
    """Build `config.json` of the Hugging Face layout, without `auto_map`, so no code is downloaded for it."""
    dtype = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    raw = {
        "architectures": ["ChatGLMModel"],
        **_language(config, "bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id"),
        **_language(config, "hidden_size", "inner_hidden_size", "layernorm_epsilon", "max_sequence_length"),
        "model_type": "chatglm",
        **_language(config, "num_attention_heads", "num_layers"),
        **HF_CONSTANTS,
        "torch_dtype": dtype,
        **_language(config, "use_cache", "vocab_size", "image_length"),
        **_language(config, "image_token_id", "unk_token_id", "rotary_frequencies"),
        "eva_config": _vision(config.vision),
        "qformer_config": _qformer(config.qformer),
    }
    return _with_extras(raw, config)


def sat(config: VisualGLMConfig) -> dict[str, Any]:
    """Build `model_config.json` of the sat layout, newer generation (it has `pad_token_id`)."""
    raw = {
        **SAT_CONSTANTS,
        **_language(config, "num_layers", "hidden_size", "num_attention_heads", "vocab_size"),
        **_language(config, "max_sequence_length", "image_length"),
        "eva_args": _vision(config.vision),
        "qformer_args": _qformer(config.qformer),
        **_language(config, "bos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id"),
        **_language(config, "image_token_id", "unk_token_id", "rotary_frequencies"),
    }
    if config.inner_hidden_size != 4 * config.hidden_size:
        raw["inner_hidden_size"] = config.inner_hidden_size
    if config.layernorm_epsilon != VisualGLMConfig.layernorm_epsilon:
        raw["layernorm_epsilon"] = config.layernorm_epsilon
    if config.bos_token_id is None or config.eos_token_id != config.bos_token_id + 1:
        raw["eos_token_id"] = config.eos_token_id
    if config.prefix_length:
        raw |= {"model_class": "FineTuneVisualGLMModel", "use_lora": False, "use_qlora": False}
        raw |= {"use_ptuning": True, "pre_seq_len": config.prefix_length}
    return {key: value for key, value in _with_extras(raw, config).items() if key not in HF_CONSTANTS}


def _language(config: VisualGLMConfig, *keys: str) -> dict[str, Any]:
    return {key: getattr(config, key) for key in keys}


def _vision(config: VisionConfig) -> dict[str, Any]:
    written = {
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "vocab_size": 1,
        "layernorm_order": "pre",
        "model_parallel_size": 1,
        "max_sequence_length": config.num_positions,
        "inner_hidden_size": config.inner_hidden_size,
        "use_final_layernorm": False,
        "layernorm_epsilon": config.layernorm_epsilon,
        "image_size": [config.image_size, config.image_size],
        "pre_len": 1,
        "post_len": 0,
        "in_channels": config.in_channels,
        "num_classes": 0,
        "patch_size": config.patch_size,
    }
    return _with_extras(written, config)


def _qformer(config: QFormerConfig) -> dict[str, Any]:
    crossing = config.cross_attention_layers or []
    raw = {
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "vocab_size": config.num_queries,
        "layernorm_order": "post",
        "model_parallel_size": 1,
        "max_sequence_length": 0,
        "is_decoder": [index in crossing for index in range(config.num_layers)],
        "cross_attn_hidden_size": config.cross_attn_hidden_size,
        "layernorm_epsilon": config.layernorm_epsilon,
    }
    if config.inner_hidden_size != 4 * config.hidden_size:
        raw["inner_hidden_size"] = config.inner_hidden_size
    return _with_extras(raw, config)


def _with_extras(written: dict[str, Any], config: Any) -> dict[str, Any]:
    """Add the keys that are neither ours nor transformers' nor already written."""
    known = {*type(config)().to_dict(), "transformers_version", "auto_map", *written}
    return written | {key: value for key, value in config.to_dict().items() if key not in known}
