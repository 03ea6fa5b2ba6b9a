"""Check values of an untrusted `config.json` before any work.

`ConfigurationError` is raised for a size above every known model's, for a key that would change a class's behaviour,
and for a key that makes transformers download code.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import ConfigurationError
from .stem import STEMS

CONFIG = "config.json"
LARGEST = {
    "num_layers": 1024,
    "hidden_size": 1 << 16,
    "num_attention_heads": 1 << 12,
    "inner_hidden_size": 1 << 19,
    "cross_attn_hidden_size": 1 << 16,
    "vocab_size": 1 << 22,
    "max_sequence_length": 1 << 20,
    "image_length": 1 << 12,
    "num_queries": 1 << 12,
    "image_size": 1 << 13,
    "patch_size": 1 << 10,
    "in_channels": 16,
}
"""Upper bounds of sizes, far above every model of this kind, so that a number in a file cannot exhaust memory."""
LONGEST_PREFIX = 1 << 14
NUMBERS = ("layernorm_epsilon", "output_layernorm_epsilon", "initializer_range", "query_initializer_range")
DTYPES = ("float16", "bfloat16", "float32", "float64")
KERNELS = (None, "eager", "sdpa", "flex_attention")
"""Attention implementations that a file may name; for other names transformers downloads code from a hub."""


def check_size(where: str, key: str, value: Any) -> None:
    """Raise `ConfigurationError` unless `value` is a whole number from 1 to the upper bound of `key`."""
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{where}{key} is {shown(value)}. Write a whole number above 0.")
    if value > LARGEST[key]:
        raise ConfigurationError(
            f"{where}{key} is {shown(value)}, but the maximum is {LARGEST[key]}: the configuration is damaged. "
            f"Get {CONFIG} again."
        )


def shown(value: Any) -> str:
    """Return the first 60 characters of a value's `repr`."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def check_sizes(where: str, config: Any, halves: int = 1) -> None:
    """Raise `ConfigurationError` for an impossible size or epsilon; a head must divide into `halves` equal parts."""
    for key in LARGEST:
        if hasattr(type(config), key):  # a configuration has only some of the keys
            check_size(where, key, getattr(config, key))
    for key in NUMBERS:
        value = getattr(config, key, 0.0)
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise ConfigurationError(f"{where}{key} is {shown(value)}. Write a number, 0 or more.")
    divisor = halves * config.num_attention_heads
    if config.hidden_size % divisor:
        raise ConfigurationError(
            f"{where}hidden_size is {config.hidden_size}, which is not a multiple of {divisor} "
            f"({f'{halves} x ' if halves > 1 else ''}{config.num_attention_heads} attention heads). "
            "Correct one of the two."
        )


def check_ids(config: Any) -> None:
    """Raise `ConfigurationError` unless every `*_token_id` is a token id (`eos_token_id` may be a list)."""
    for key in (key for key in vars(type(config)) if key.endswith("_token_id")):
        value = getattr(config, key)
        ids = value if isinstance(value, list) and value and key == "eos_token_id" else [value]
        if not all(type(index) is int and 0 <= index < LARGEST["vocab_size"] for index in ids):
            raise ConfigurationError(f"{key} is {shown(value)}. Write a token id.")


def check_crossing(qformer: Any) -> None:
    """Raise `ConfigurationError` unless `cross_attention_layers` lists indices of layers."""
    layers = qformer.cross_attention_layers
    if not isinstance(layers, list) or not all(type(i) is int and 0 <= i < qformer.num_layers for i in layers):
        raise ConfigurationError(
            f"qformer_config.cross_attention_layers is {shown(layers)}. List layer indices from 0 to "
            f"{qformer.num_layers - 1}."
        )


MOST_CONCEPTS = 100_000


def check_stem(vision: Any, image_length: int) -> None:
    """Raise `ConfigurationError` unless `stem` is None, or a known network that the other sizes leave room for."""
    stem, concepts = vision.stem, vision.concepts
    if type(concepts) is not int or not 0 <= concepts <= MOST_CONCEPTS or (concepts and stem is None):
        raise ConfigurationError(
            f"vision_config.concepts is {shown(concepts)}. Write a whole number from 0 to {MOST_CONCEPTS}, 0 without a "
            "stem."
        )
    if stem is None:
        return
    if not isinstance(stem, str) or stem not in STEMS:
        raise ConfigurationError(
            f"vision_config.stem is {shown(stem)}: write null for no convolutional stem, or {' or '.join(STEMS)}."
        )
    if vision.in_channels != 3:
        raise ConfigurationError(
            f"vision_config.in_channels is {vision.in_channels}, but the stem {stem} reads images of 3 channels. "
            "Correct one of the two."
        )
    if image_length < 2:
        raise ConfigurationError(
            f"image_length is {image_length}, but the stem {stem} adds to the last two embeddings of an image. "
            "Give 2 or more."
        )


def check_keys(cls: Any, stored: dict[str, Any]) -> None:
    """Raise `ConfigurationError` for keys that change a class's behaviour or make transformers download code."""
    for kind, table in ((cls, stored), *((kind, stored.get(key)) for key, kind in cls.sub_configs.items())):
        if isinstance(table, dict):
            _check_table(kind, table)


def _check_table(kind: Any, table: dict[str, Any]) -> None:
    settings = {*kind().to_dict(), *kind.attribute_map, "torch_dtype", "name_or_path", "num_labels", "use_return_dict"}
    for key, value in table.items():
        if key.lstrip("_").startswith("attn_implementation"):
            if value not in KERNELS:
                raise ConfigurationError(f"{key} is {shown(value)}. Write eager, sdpa, flex_attention or null.")
        elif key not in settings and (hasattr(kind, key) or key.startswith("__") or "implementation" in key):
            raise ConfigurationError(f"{shown(key)} is not a setting of a model. Remove it from {CONFIG}.")
    for key in ("dtype", "torch_dtype"):
        value = table.get(key)
        if not isinstance(value, torch.dtype) and str(value or DTYPES[0]).removeprefix("torch.") not in DTYPES:
            raise ConfigurationError(f"{key} is {shown(value)}. Write one of {', '.join(DTYPES)}.")
