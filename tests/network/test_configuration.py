"""Upstream's configuration files: optional keys, and what is rejected."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from visualglm import VisualGLMConfig
from visualglm.errors import ConfigurationError
from visualglm.network.configuration import ChatGLMConfig

from ..conftest import REFERENCE

RAW = json.loads((REFERENCE / "hf" / "config.json").read_text(encoding="utf-8"))


def read(**qformer: Any) -> VisualGLMConfig:
    """Read the reference set's file with these keys of `qformer_config`; None removes a key."""
    raw = copy.deepcopy(RAW)
    raw["qformer_config"] |= qformer
    raw["qformer_config"] = {key: value for key, value in raw["qformer_config"].items() if value is not None}
    return ChatGLMConfig.from_dict(raw)


@pytest.mark.parametrize(
    "is_decoder, layers",
    [
        ([True, False, True, False], [0, 2]),
        ([False, True, False, False], [1]),
        ([1, 0, 0, 1], [0, 3]),
        (True, [0, 1, 2, 3]),
        (False, []),
        (None, []),
    ],
)
def test_is_decoder_as_sat_reads_it(is_decoder: Any, layers: list[int]) -> None:
    assert read(is_decoder=is_decoder).qformer.cross_attention_layers == layers


def test_an_epsilon_that_is_not_named_is_sats_default() -> None:
    assert read(layernorm_epsilon=None).qformer.layernorm_epsilon == 1e-5
    raw = copy.deepcopy(RAW)
    del raw["eva_config"]["layernorm_epsilon"]
    assert ChatGLMConfig.from_dict(raw).vision.layernorm_epsilon == 1e-5


def test_the_full_models_files_give_the_defaults() -> None:
    files = json.loads((REFERENCE / "config-full.json").read_text(encoding="utf-8"))
    read_back, ours = ChatGLMConfig.from_dict(files["hf_config"]), VisualGLMConfig()
    for part in ("vision", "qformer"):
        assert getattr(read_back, part).to_dict() == getattr(ours, part).to_dict() | {
            key: value
            for key, value in getattr(read_back, part).to_dict().items()
            if key not in getattr(ours, part).to_dict()
        }
    assert (read_back.num_hidden_layers, read_back.hidden_size, read_back.vocab_size) == (28, 4096, 130528)
    assert (read_back.image_token_id, read_back.rotary_frequencies) == (130527, "half")


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"image_length": 31}, "image_length"),
        ({"rotary_frequencies": "rounded"}, "rotary_frequencies"),
        ({"num_attention_heads": 5}, "num_attention_heads|attention heads"),
        ({"qformer_config": {"cross_attn_hidden_size": 9}}, "cross_attn_hidden_size"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        VisualGLMConfig(**fields)


def test_unknown_keys_are_kept_and_names_of_transformers_are_aliases() -> None:
    config = VisualGLMConfig(num_hidden_layers=3, something_new=7)
    assert (config.num_layers, config.something_new) == (3, 7)
    assert VisualGLMConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
