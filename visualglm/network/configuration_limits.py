"""Is what a `config.json` says possible? Asked before any work, in one sentence each.

In: values from a stranger's file. A size that no model has, a key that changes what a class does, or code that
transformers would fetch are a `ConfigurationError`. Knows the configurations by their fields only.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import ConfigurationError

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
"""What a size may be at most, far above every model of this kind: a file must not make work by a number alone."""
LONGEST_PREFIX = 1 << 14
NUMBERS = ("layernorm_epsilon", "output_layernorm_epsilon", "initializer_range", "query_initializer_range")
DTYPES = ("float16", "bfloat16", "float32", "float64")
KERNELS = (None, "eager", "sdpa", "flex_attention")
"""Attention that a file may name; the others are code, which transformers would fetch from a hub."""


def check_size(where: str, key: str, value: Any) -> None:
    """Raises `ConfigurationError` unless it is a whole number above 0, and not larger than any model has."""
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{where}{key} is {shown(value)}: write a whole number above 0.")
    if value > LARGEST[key]:
        raise ConfigurationError(
            f"{where}{key} is {shown(value)}, and at most {LARGEST[key]} is possible here: the configuration is "
            "damaged, so get it again."
        )


def shown(value: Any) -> str:
    """The beginning of a value from a file."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def check_sizes(where: str, config: Any, halves: int = 1) -> None:
    for key in LARGEST:
        if hasattr(type(config), key):  # else it is a key of somebody else
            check_size(where, key, getattr(config, key))
    for key in NUMBERS:
        value = getattr(config, key, 0.0)
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise ConfigurationError(f"{where}{key} is {shown(value)}: write a number, 0 or more.")
    if config.hidden_size % (halves * config.num_attention_heads):
        raise ConfigurationError(
            f"{where}hidden_size is {config.hidden_size}, which {config.num_attention_heads} attention heads cannot "
            f"share evenly{f' in parts of {halves}' if halves > 1 else ''}: one of the two is wrong."
        )


def check_ids(config: Any) -> None:
    for key in (key for key in vars(type(config)) if key.endswith("_token_id")):
        value = getattr(config, key)
        ids = value if isinstance(value, list) and value and key == "eos_token_id" else [value]
        if not all(type(index) is int and 0 <= index < LARGEST["vocab_size"] for index in ids):
            raise ConfigurationError(f"{key} is {shown(value)}: write the number of a token.")


def check_crossing(qformer: Any) -> None:
    layers = qformer.cross_attention_layers
    if not isinstance(layers, list) or not all(type(i) is int and 0 <= i < qformer.num_layers for i in layers):
        raise ConfigurationError(
            f"qformer_config.cross_attention_layers is {shown(layers)}: list numbers of layers, from 0 to "
            f"{qformer.num_layers - 1}."
        )


def check_keys(cls: Any, stored: dict[str, Any]) -> None:
    """Raises `ConfigurationError` for keys that would change what the class does, or have transformers fetch code."""
    for kind, table in ((cls, stored), *((kind, stored.get(key)) for key, kind in cls.sub_configs.items())):
        if isinstance(table, dict):
            _check_table(kind, table)


def _check_table(kind: Any, table: dict[str, Any]) -> None:
    settings = {*kind().to_dict(), *kind.attribute_map, "torch_dtype", "name_or_path", "num_labels", "use_return_dict"}
    for key, value in table.items():
        if key.lstrip("_").startswith("attn_implementation"):
            if value not in KERNELS:
                raise ConfigurationError(f"{key} is {shown(value)}: write eager, sdpa or flex_attention, or none.")
        elif key not in settings and (hasattr(kind, key) or key.startswith("__") or "implementation" in key):
            raise ConfigurationError(f"{shown(key)} is no setting of a model: take it out of {CONFIG}.")
    for key in ("dtype", "torch_dtype"):
        value = table.get(key)
        if not isinstance(value, torch.dtype) and str(value or DTYPES[0]).removeprefix("torch.") not in DTYPES:
            raise ConfigurationError(f"{key} is {shown(value)}: write one of {', '.join(DTYPES)}.")
