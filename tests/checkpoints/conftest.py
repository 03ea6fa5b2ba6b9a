"""Checkpoints to break, convert and load: the reference set, and a random one of another size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import ChatGLMConfig

REFERENCE = Path(__file__).parents[1] / "reference"
SAT_FILE = "1/mp_rank_00_model_states.pt"

ODD_CONFIG: dict[str, Any] = {
    "model_type": "chatglm",
    "vocab_size": 300,
    "hidden_size": 48,
    "num_attention_heads": 3,
    "inner_hidden_size": 80,
    "num_layers": 2,
    "max_sequence_length": 64,
    "image_length": 4,
    "bos_token_id": 204,
    "eos_token_id": 205,
    "mask_token_id": 200,
    "gmask_token_id": 201,
    "pad_token_id": 3,
    "position_encoding_2d": True,
    "torch_dtype": "float16",
    "a_key_from_elsewhere": [1, 2],
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGenerationWithImage"},
    "eva_config": {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "inner_hidden_size": 40,
        "layernorm_epsilon": 1e-06,
        "image_size": [28, 28],
        "patch_size": 14,
        "in_channels": 3,
    },
    "qformer_config": {
        "num_layers": 3,
        "hidden_size": 24,
        "num_attention_heads": 2,
        "vocab_size": 4,
        "is_decoder": [True, False, True],
        "cross_attn_hidden_size": 32,
        "layernorm_epsilon": 1e-12,
    },
}


def random_state(raw: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """float16 numbers for every tensor of the model, float32 for its norms, as upstream's code would save them."""
    with torch.device("meta"):
        shapes = {
            k: v.shape for k, v in VisualGLMForConditionalGeneration(ChatGLMConfig.from_dict(raw)).state_dict().items()
        }
    generator = torch.Generator().manual_seed(seed)
    state = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: value if "layernorm" in name else value.half() for name, value in state.items()}


def write_hf(folder: Path, raw: dict[str, Any], state: dict[str, Tensor], **save: Any) -> Path:
    """One `pytorch_model.bin` and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin", **save)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def hf_tensors(folder: Path) -> dict[str, Tensor]:
    """Everything in a Hugging Face folder's .bin files."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.bin")):
        tensors |= torch.load(file, weights_only=True)
    return tensors


def sat_tensors(folder: Path) -> dict[str, Tensor]:
    """Everything in a sat folder's file."""
    return torch.load(folder / SAT_FILE, weights_only=True)["module"]


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Return the same names, dtypes, shapes and bits."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Write a random checkpoint of another size: untied, float16 and float32, no rotary buffers, unknown keys."""
    return write_hf(tmp_path / "odd", ODD_CONFIG, random_state(ODD_CONFIG))


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Change keys of a JSON file; `None` removes one."""

    def edit(path: Path, **changes: Any) -> None:
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return edit
