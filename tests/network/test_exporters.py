"""transformers' exporters: a prompt and a decoding step export, and give the same logits."""

from __future__ import annotations

import copy

import pytest
import torch

from .test_model_invariants import padded, prompt, tiny

exporters = pytest.importorskip("transformers.exporters")
BATCH = {**padded([prompt(1, [20, 21]), prompt(2, [20])]), "pixel_values": torch.randn(3, 3, 24, 24)}


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_prompt_and_a_step_export(dynamic: bool) -> None:
    model = tiny()
    with torch.no_grad():
        cache = model(**BATCH, use_cache=True).past_key_values
    mask = torch.cat([BATCH["attention_mask"], torch.ones(2, 1).long()], dim=1)
    step = {"input_ids": torch.tensor([[30], [31]]), "attention_mask": mask, "past_key_values": cache}
    for inputs in (BATCH, step):
        config = exporters.DynamoConfig(dynamic=dynamic)
        exported = exporters.DynamoExporter().export(model, copy.deepcopy(inputs), config)
        program = getattr(exported, "program", exported)  # older transformers return torch's own program
        found = program.module()(**copy.deepcopy(inputs))
        expected = model(**copy.deepcopy(inputs))
        assert torch.equal(found.logits, expected.logits)
        assert found.past_key_values.get_seq_length() == expected.past_key_values.get_seq_length()


@pytest.mark.slow
def test_the_parts_of_generation_export() -> None:
    parts = exporters.DynamoExporter().export_for_generation(tiny(), BATCH, exporters.DynamoConfig())
    assert "decode" in getattr(parts, "components", parts)
