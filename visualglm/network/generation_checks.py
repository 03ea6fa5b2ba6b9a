"""Check settings of `generate`, from a caller or from an untrusted file, before any work.

100,000 beams, for example, would be that many copies of the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import GenerationConfig, SequenceBiasLogitsProcessor, WatermarkingConfig

from .configuration_checks import shown

MOST_TOKENS = 1 << 20
WHOLE = {
    "max_length": (1, MOST_TOKENS),
    "max_new_tokens": (1, MOST_TOKENS),
    "min_length": (0, MOST_TOKENS),
    "min_new_tokens": (0, MOST_TOKENS),
    "max_cache_len": (1, MOST_TOKENS),
    "num_beams": (1, 64),
    "num_return_sequences": (1, 64),
    "top_k": (0, MOST_TOKENS),
    "no_repeat_ngram_size": (0, 1024),
    "encoder_no_repeat_ngram_size": (0, 1024),
    "prompt_lookup_num_tokens": (1, 1024),
    "num_assistant_tokens": (1, 1024),
    "max_matching_ngram_size": (1, 1024),
}
"""Whole numbers with their minimum and maximum."""
REAL = {
    "temperature": (1e-6, 1e6),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "top_h": (0, 1),
    "typical_p": (0, 1),
    "epsilon_cutoff": (0, 1),
    "eta_cutoff": (0, 1),
    "repetition_penalty": (1e-6, 1e6),
    "encoder_repetition_penalty": (1e-6, 1e6),
    "length_penalty": (-1e3, 1e3),
    "max_time": (0, 1e9),
}
SWITCHES = (
    *("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values", "token_healing", "disable_compile"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *("low_memory", "is_assistant", "_from_model_config"),
)
IDS = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id"),
    *("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids"),
)
CHOICES: dict[str, tuple[Any, ...]] = {
    "early_stopping": (True, False, "never"),
    "cache_implementation": ("dynamic", "static"),
}
RULED_IDS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_bos_token_id", "forced_eos_token_id")
"""Settings that forbid or force ids."""
MOST_IDS = 1 << 12
NOT_SETTINGS = ("transformers_version",)


def fault_of_numbers(values: Mapping[str, Any]) -> str | None:
    """Return a clause that says what is wrong with the first impossible number; None if all are possible."""
    for name, bounds in {**WHOLE, **REAL}.items():
        value = values.get(name)
        kinds = (int,) if name in WHOLE else (int, float)
        if value is None or (type(value) in kinds and bounds[0] <= value <= bounds[1]):
            continue
        kind = "whole number" if name in WHOLE else "number"
        return f"{name} is {shown(value)}: give a {kind} from {bounds[0]:g} to {bounds[1]:g}"
    return None


def fault_of_arguments(values: Mapping[str, Any], vocab_size: int) -> str | None:
    """Return the same for the arguments of a caller, whose ids and objects are checked, too."""
    fault = fault_of_numbers(values)
    for name in RULED_IDS:
        given = values.get(name)
        if fault is None and given is not None and not _are_ids(_flat(given), vocab_size):
            fault = f"{name} is {shown(given)}: give token ids, which are whole numbers from 0 to {vocab_size - 1}"
    bias, mark = values.get("sequence_bias"), values.get("watermarking_config")
    if fault is None and bias is not None and not _is_bias(bias, vocab_size):
        fault = f"sequence_bias is {shown(bias)}: give lists of token ids with a number each, as in [[[5, 6], -2.0]]"
    if fault is None and mark is not None and not _is_watermark(mark):
        fault = f"watermarking_config is {shown(mark)}: give a WatermarkingConfig of transformers, or its arguments"
    return fault


def fault_of_file(values: Mapping[str, Any], vocab_size: int) -> str | None:
    """Return the same for all settings of a file; it may not hold those that need objects or other models."""
    fault = fault_of_numbers(values)
    if fault is not None:
        return fault
    known = vars(GenerationConfig())
    for name, value in values.items():
        if value is None or name in NOT_SETTINGS or name in WHOLE or name in REAL:
            continue
        if name in CHOICES:
            fits = any(value == choice for choice in CHOICES[name])
        elif name in SWITCHES:
            fits = isinstance(value, bool)
        elif name in IDS:
            ids = _flat(value)
            fits = len(ids) <= MOST_IDS and _are_ids(ids, vocab_size)
        else:
            fits = name not in known and not hasattr(GenerationConfig, name) and not name.startswith("__")
        if not fits:
            return f"{shown(name)} is {shown(value)}, which is not taken from a file: give it to `generate`"
    return None


def _flat(value: Any) -> list[Any]:
    """Flatten ids: one id, a list or tensor, or a list of lists."""
    value = value.tolist() if hasattr(value, "tolist") else value
    outer = value if isinstance(value, list | tuple) else [value]
    return [index for inner in outer for index in (inner if isinstance(inner, list | tuple) else [inner])]


def _are_ids(values: Iterable[Any], vocab_size: int) -> bool:
    return all(type(index) is int and 0 <= index < vocab_size for index in values)


def _is_bias(value: Any, vocab_size: int) -> bool:
    try:
        sequences = SequenceBiasLogitsProcessor(value).sequence_bias
    except (TypeError, ValueError, AttributeError, IndexError):
        return False
    return all(_are_ids(ids, vocab_size) for ids in sequences)


def _is_watermark(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return True  # transformers also takes other classes with its method construct_processor
    try:
        WatermarkingConfig(**value).validate()
    except (TypeError, ValueError):
        return False
    return True
