"""Inputs of `forward` and `generate`: embeddings instead of ids, and rows with several examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DataCollatorWithFlattening

from visualglm.errors import PromptError

from .test_model_invariants import padded, prompt, tiny

IMAGES = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
BATCH = padded([prompt(1, [20, 21, 22]), prompt(2, [30])])
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}


@pytest.mark.parametrize("with_ids", [True, False])
def test_embeddings_give_what_their_ids_give(with_ids: bool) -> None:
    model = tiny()
    embeds = {"inputs_embeds": model.get_input_embeddings()(BATCH["input_ids"]).detach()}
    if with_ids:
        embeds["input_ids"] = BATCH["input_ids"]
    given = {"attention_mask": BATCH["attention_mask"], "pixel_values": IMAGES, **embeds}
    with torch.no_grad():
        found, expected = (model(**inputs).logits for inputs in (given, {**BATCH, "pixel_values": IMAGES}))
    assert torch.equal(found[0], expected[0])
    real = BATCH["attention_mask"].bool()
    assert torch.equal(found[real], expected[real])


@pytest.mark.parametrize("repeated", [{}, {"num_return_sequences": 2, "num_beams": 3}, {"repetition_penalty": 1.3}])
@pytest.mark.parametrize("with_ids", [True, False])
def test_generate_with_embeddings(with_ids: bool, repeated: dict[str, Any]) -> None:
    """The penalty counts the prompt's ids, so it equals that of ids only if they are given."""
    model = tiny()
    expected = model.generate(**BATCH, pixel_values=IMAGES, **GREEDY, **repeated)
    given = {"inputs_embeds": model.get_input_embeddings()(BATCH["input_ids"]).detach(), "pixel_values": IMAGES}
    if with_ids:
        given["input_ids"] = BATCH["input_ids"]
    found = model.generate(**given, attention_mask=BATCH["attention_mask"], **GREEDY, **repeated)
    assert found.shape[1] == 6 + (BATCH["input_ids"].shape[1] if with_ids else 0)
    if with_ids or "repetition_penalty" not in repeated:
        assert torch.equal(found[:, -6:], expected[:, -6:])


def test_other_embeddings_change_the_logits() -> None:
    model = tiny()
    embeds = model.get_input_embeddings()(BATCH["input_ids"]).detach()
    embeds[:, -3] += 1
    with torch.no_grad():
        logits = [
            model(**BATCH, inputs_embeds=given, pixel_values=IMAGES).logits[:, -1]
            for given in (None, embeds, embeds.clone().requires_grad_())
        ]
    assert not torch.equal(logits[0], logits[1]) and torch.equal(logits[1], logits[2])


@pytest.mark.parametrize("shape", [(2, 5, 24), (2, 18, 23), (1, 18, 24), (18, 24)])
def test_embeddings_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PromptError, match="but the model needs"):
        tiny()(**BATCH, inputs_embeds=torch.zeros(shape))


def test_neither_ids_nor_embeddings() -> None:
    with pytest.raises(PromptError, match="needs input_ids or inputs_embeds"):
        tiny()(attention_mask=BATCH["attention_mask"])
    with pytest.raises(PromptError, match="lack <sop>"):
        tiny()(inputs_embeds=torch.zeros(1, 4, 24))


@pytest.mark.parametrize("method", ["PromptTuningConfig", "PromptEncoderConfig"])
def test_prompt_tuning_trains_and_a_batch_is_its_rows(method: str) -> None:
    """PEFT passes embeddings only, and puts its virtual tokens before the padding."""
    peft = pytest.importorskip("peft", reason="needs visualglm[train]")
    model = peft.get_peft_model(tiny(), getattr(peft, method)(task_type="CAUSAL_LM", num_virtual_tokens=4))
    labels = BATCH["input_ids"].clone()
    model(**BATCH, pixel_values=IMAGES, labels=labels).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad.abs().sum() > 0 for parameter in trained)
    torch.optim.SGD(trained, lr=10.0).step()
    model.eval()
    together = model.generate(**BATCH, pixel_values=IMAGES, **GREEDY)[:, -6:]
    with torch.no_grad():
        logits = model(**BATCH, pixel_values=IMAGES).logits[:, -1]
    for row, images in ((0, IMAGES[:1]), (1, IMAGES[1:])):
        real = BATCH["attention_mask"][row].bool()
        alone = {name: value[row : row + 1, real] for name, value in BATCH.items()}
        with torch.no_grad():
            assert (model(**alone, pixel_values=images).logits[0, -1] - logits[row]).abs().max() < 1e-5
        assert torch.equal(model.generate(**alone, pixel_values=images, **GREEDY)[0, -6:], together[row])


def test_peft_names_the_language_models_embeddings_alone() -> None:
    """Upstream's tensor names end alike in ViT and Q-Former, so an expression for the whole name is needed."""
    peft = pytest.importorskip("peft", reason="needs visualglm[train]")
    model = peft.get_peft_model(tiny(), peft.LoraConfig(r=2, target_modules=r"transformer\.word_embeddings"))
    model(**BATCH, pixel_values=IMAGES, labels=BATCH["input_ids"]).loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 and all("model.transformer.word_embeddings.lora" in name for name in trained)
    assert any(parameter.grad.abs().sum() > 0 for parameter in trained.values())


def test_virtual_tokens_may_be_copies_of_the_mask_tokens() -> None:
    """PEFT can initialize virtual tokens with a text, to which the tokenizer adds `[gMASK] <sop>`."""
    model, ids = tiny(), torch.tensor([[20, 81, 82, *prompt(0, [30, 31])]])
    embeds = model.get_input_embeddings()(ids).detach()
    with torch.no_grad():
        found = model(inputs_embeds=embeds).logits
        embeds[0, 1:3] += 1e-4
        changed = model(inputs_embeds=embeds).logits
    assert (found - changed).abs().max() < 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_seq_idx": True, "return_position_ids": False},
        {"return_flash_attn_kwargs": True, "return_position_ids": False},
    ],
)
def test_flattened_examples_are_refused(options: dict[str, bool]) -> None:
    examples = [{"input_ids": [*prompt(0, [20, 21]), 40]}, {"input_ids": [*prompt(0, [30]), 41, 42]}]
    collate = DataCollatorWithFlattening(return_tensors="pt", **options)
    model = tiny()
    with pytest.raises(PromptError, match="holds several examples"):
        model(**collate(examples))
    batch = {name: value for name, value in collate(examples).items() if name != "labels"}
    with pytest.raises(PromptError, match="holds several examples"):
        model.generate(**batch, max_new_tokens=2)
    assert model(**collate(examples[:1])).loss.isfinite()


def test_positions_that_never_start_again_are_accepted() -> None:
    """transformers' positions with padding, and those of upstream's tokenizer."""
    mask = BATCH["attention_mask"]
    plain = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    upstream = torch.stack([plain, torch.zeros_like(plain)], dim=1)
    model = tiny()
    with torch.no_grad():
        expected = model(**BATCH, pixel_values=IMAGES).logits
        for positions in (plain, plain[:, None].expand(-1, 2, -1).contiguous(), upstream):
            assert torch.equal(model(**BATCH, pixel_values=IMAGES, position_ids=positions).logits, expected)
