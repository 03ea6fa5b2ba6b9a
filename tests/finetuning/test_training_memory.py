"""Estimated memory: the activations of the plan equal what autograd saves, for every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from visualglm.adapters.files import Base
from visualglm.finetuning.config import read_finetuning
from visualglm.finetuning.trainable_model import prepare_for_training
from visualglm.finetuning.training_memory import HEAD, estimate_training_memory
from visualglm.model import VisualGLMForConditionalGeneration as Model
from visualglm.network.configuration import VisualGLMConfig

ROWS, TOKENS, SLOTS, SIZE = 4, 64, 16, 56
SOP, GMASK = 7, 6
EVERY_LAYER = "lora.targets=['attention.query_key_value', 'attention.dense', 'mlp.dense_h_to_4h', 'mlp.dense_4h_to_h']"
WAYS = [
    ("lora",),
    ("lora", EVERY_LAYER),
    ("lora", EVERY_LAYER, "lora.dropout=0.1"),
    ("ptuning",),
    ("full",),
    ("full", "gradient_checkpointing=true"),
    ("full", "parts.vision='full'", "parts.qformer='full'", "parts.projection='full'"),
]


def small_model() -> Model:
    """Build a small model that is wide enough for its blocks to dominate."""
    vision = {"hidden_size": 256, "inner_hidden_size": 1024, "num_layers": 2, "num_attention_heads": 8}
    qformer = {"hidden_size": 64, "inner_hidden_size": 256, "num_layers": 2, "num_attention_heads": 2}
    config = VisualGLMConfig(
        hidden_size=256, inner_hidden_size=1024, num_layers=4, num_attention_heads=4, vocab_size=500,
        image_length=SLOTS,
        vision_config={**vision, "image_size": SIZE, "patch_size": 14},
        qformer_config={**qformer, "cross_attn_hidden_size": 256, "num_queries": SLOTS},
        mask_token_id=5, gmask_token_id=GMASK, bos_token_id=SOP, eos_token_id=8,
    )  # fmt: skip
    return Model(config).train()


def saved_bytes(model: Model) -> int:
    """Return the bytes that autograd saves in a forward pass besides parameters, each storage once."""
    ids = torch.randint(20, 100, (ROWS, TOKENS))
    ids[:, 1 : 1 + SLOTS], ids[:, -10], ids[:, -9] = int(model.config.image_token_id or 0), GMASK, SOP
    labels = ids.clone()
    labels[:, :-9] = -100
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: list[torch.Tensor] = []  # as long as they live, no storage is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(ids, torch.randn(ROWS, 3, SIZE, SIZE), torch.ones_like(ids), labels)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(size for place, size in storages.items() if place not in own)


@pytest.mark.parametrize("way", WAYS, ids=[" ".join(way)[:40] for way in WAYS])
def test_a_pass_keeps_what_was_estimated(way: Any) -> None:
    method, *changes = way
    recipe = read_finetuning(None, (f"batch={ROWS}", *changes), data="-", output="-", method=method)
    model = small_model()
    ready = prepare_for_training(model, recipe, Base("-", "-", 0, 0, 0))
    said = estimate_training_memory(ready, TOKENS)
    logits = ROWS * TOKENS * model.config.vocab_size * 4
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        block = (said.one_pass - HEAD * logits) // (4 + 19) * 19  # recomputed one at a time in the backward pass
        assert saved_bytes(model) == pytest.approx(said.one_pass - block - (HEAD - 1) * logits, rel=0.35)
    else:
        assert saved_bytes(model) == pytest.approx(said.one_pass - (HEAD - 1) * logits, rel=0.12)
    assert said.training == 12 * sum(ready.counts().values())


def test_processes_share_what_is_sharded() -> None:
    recipe = read_finetuning(None, ("sharding='fsdp'",), data="-", output="-", method="full")
    ready = prepare_for_training(small_model(), recipe, Base("-", "-", 0, 0, 0))
    one, two = (estimate_training_memory(ready, TOKENS, processes) for processes in (1, 2))
    assert two.weights == one.weights // 2 and two.training == one.training // 2
