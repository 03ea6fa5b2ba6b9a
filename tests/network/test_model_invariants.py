"""Invariants of the model: kernels, caches, batches, gradients, images and sizes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache, StaticCache
from transformers.exporters.exporter_dynamo import _pytree_flatten, _pytree_unflatten

from visualglm import VisualGLMConfig, VisualGLMForConditionalGeneration
from visualglm.errors import ImageError, PromptError
from visualglm.network.attention import attend

from ..conftest import Reference, open_reference

SLOT = 767
WITH_LOGITS = {"output_logits": True, "return_dict_in_generate": True}


def tiny(**kwargs: Any) -> VisualGLMForConditionalGeneration:
    """Return a small model whose sizes differ from those of the 6B and of the reference set."""
    torch.manual_seed(0)
    config = VisualGLMConfig(
        vocab_size=97, num_layers=2, hidden_size=24, num_attention_heads=3, inner_hidden_size=40, image_length=5,
        mask_token_id=80, gmask_token_id=81, bos_token_id=82, eos_token_id=83, max_sequence_length=64,
        vision_config=dict(
            num_layers=2, hidden_size=18, num_attention_heads=3, inner_hidden_size=20, image_size=24, patch_size=8
        ),
        qformer_config=dict(
            num_layers=3, hidden_size=16, num_attention_heads=2, cross_attn_hidden_size=18, num_queries=5
        ),
        **kwargs,
    )  # fmt: skip
    return VisualGLMForConditionalGeneration(config).eval()


def prompt(images: int, text: list[int]) -> list[int]:
    return [10, *([96] * 5 + [11]) * images, *text, 81, 82]


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[3] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }


ROWS = [(1, [20, 21, 22]), (0, [30]), (2, [40, 41]), (3, [50, 51, 52, 53]), (0, [31, 32, 33, 34])]


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_batch_is_its_rows(kernel: str) -> None:
    """Prompts of different lengths; rows with no image, one, and several."""
    model = tiny()
    model.set_attn_implementation(kernel)
    images = torch.randn(sum(count for count, _ in ROWS), 3, 24, 24)
    batch = padded([prompt(count, text) for count, text in ROWS])
    with torch.no_grad():
        together = model(**batch, pixel_values=images).logits
    generated = model.generate(**batch, pixel_values=images, do_sample=False, max_new_tokens=8, eos_token_id=None)
    start = 0
    for row, (count, text) in enumerate(ROWS):
        ids = torch.tensor([prompt(count, text)])
        own = images[start : start + count] if count else None
        start += count
        with torch.no_grad():
            alone = model(input_ids=ids, pixel_values=own).logits[0]
        assert (together[row, -ids.shape[1] :] - alone).abs().max() < 1e-4
        single = model.generate(ids, pixel_values=own, do_sample=False, max_new_tokens=8, eos_token_id=None)
        assert torch.equal(generated[row, -8:], single[0, -8:])


@pytest.mark.parametrize("rows", [1, 2])
def test_the_head_gets_its_rows_without_gaps(rows: int) -> None:
    """With the strides of the whole prompt, torch copies the LM head's weight on a CPU (5 s at full size)."""
    model, found = tiny(), []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].stride()))
    hidden = model.config.hidden_size
    for kept in (0, 1, 3):
        model(torch.tensor([prompt(0, [20, 21])] * rows), logits_to_keep=kept)
    assert [stride[1:] for stride in found] == [(hidden, 1)] * 3 and [s[0] // hidden for s in found[1:]] == [1, 3]


@pytest.mark.parametrize("how", [{"num_beams": 3, "num_return_sequences": 2}, {"num_return_sequences": 3}])
def test_repeated_rows_keep_their_own_images(how: dict[str, int]) -> None:
    """transformers repeats rows for beams and return sequences; images must follow their rows."""
    model = tiny()
    images = torch.randn(3, 3, 24, 24)
    batch = padded([prompt(1, [20, 21]), prompt(2, [30, 31, 32])])
    common = dict(max_new_tokens=6, eos_token_id=None, do_sample="num_beams" not in how, top_k=1, **how)
    together = model.generate(**batch, pixel_values=images, **common)
    first = model.generate(torch.tensor([prompt(1, [20, 21])]), pixel_values=images[:1], **common)
    second = model.generate(torch.tensor([prompt(2, [30, 31, 32])]), pixel_values=images[1:], **common)
    assert torch.equal(together[:, -6:], torch.cat([first[:, -6:], second[:, -6:]]))


def test_flex_attention_agrees(reference: Reference) -> None:
    """Not compiled: torch's C++ build needs a compiler, and fails on a path with spaces."""
    inputs = reference.inputs("img_multi")
    flex = open_reference(attn_implementation="flex_attention")
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        logits = flex(**inputs).logits
        output = flex.generate(**inputs, do_sample=False, max_new_tokens=6, eos_token_id=None)
    assert (logits - reference.tensor("img_multi", "logits")).abs().max() < 1e-4
    assert torch.equal(output[0, -6:], reference.tensor("img_multi", "greedy_ids")[:6])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_agree_loosely(model: Any, reference: Reference, dtype: torch.dtype) -> None:
    inputs = reference.inputs("img_zh")
    half = open_reference(dtype=dtype)
    with torch.no_grad():
        logits, exact = half(**inputs).logits.float(), model(**inputs).logits
    assert logits.isfinite().all()
    assert torch.nn.functional.cosine_similarity(logits, exact, dim=-1).min() > 0.99


def test_a_hand_written_loop_continues_at_the_right_positions(model: Any, reference: Reference) -> None:
    inputs = reference.inputs("img_multi")
    with torch.no_grad():
        output = model(**inputs, use_cache=True)
        ids = [output.logits[0, -1].argmax()]
        for _ in range(7):
            output = model(input_ids=ids[-1].view(1, 1), past_key_values=output.past_key_values)
            ids.append(output.logits[0, -1].argmax())
    assert torch.equal(torch.stack(ids), reference.tensor("img_multi", "greedy_ids")[:8])


def test_a_cropped_cache_continues_at_its_end(model: Any, reference: Reference) -> None:
    inputs = reference.inputs("img_multi")
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        ids = [torch.tensor([[number]]) for number in (30, 31, 32)]
        logits = [model(input_ids=new, past_key_values=cache).logits for new in ids]
        cache.crop(-2)
        again = [model(input_ids=new, past_key_values=cache).logits for new in ids[1:]]
        torch.testing.assert_close(again, logits[1:])
        cache.crop(-6)
        with pytest.raises(PromptError, match="cut within the prompt"):
            model(input_ids=ids[0], past_key_values=cache)


def exported(cache: DynamicCache) -> DynamicCache:
    """Return the cache as a program exported by transformers returns it."""
    return _pytree_unflatten(*_pytree_flatten(cache))


@pytest.mark.parametrize("copied", [copy.deepcopy, exported])
@pytest.mark.parametrize("given", [DynamicCache, None])
def test_a_copied_cache_continues_like_the_original(copied: Any, given: Any) -> None:
    model = tiny()
    batch = padded([prompt(0, [20, 21]), prompt(0, [30, 31, 32, 33])])
    new, mask = torch.tensor([[40], [41]]), torch.cat([batch["attention_mask"], torch.ones(2, 1).long()], dim=1)
    with torch.no_grad():
        cache = model(**batch, past_key_values=given and given(), use_cache=True).past_key_values
        twin = copied(cache)
        one, other = (model(new, attention_mask=mask, past_key_values=c).logits for c in (cache, twin))
        assert torch.equal(one, other)
        twin.batch_select_indices(torch.tensor([1]))
        with pytest.raises(PromptError, match="2 prompts, but input_ids have 1 rows"):
            model(new[1:], past_key_values=twin)


@pytest.mark.parametrize("change", ["reset", "static reset", "reorder", "select", "crop to nothing"])
def test_generate_with_a_changed_cache_equals_generate_without_one(change: str) -> None:
    """At the first step of an answer, positions come from `input_ids`, not from the state stored in the cache."""
    model = tiny()
    batch = padded([prompt(0, [20, 21]), prompt(0, [30, 31, 32, 33])])
    cache = StaticCache(config=model.config, max_cache_len=40) if "static" in change else DynamicCache()
    how = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": None}
    rows = model.generate(**batch, past_key_values=cache, **how)
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 4, dtype=torch.long)], dim=1)
    order = torch.tensor([1, 1] if change == "select" else [1, 0])
    if change == "reorder":
        cache.reorder_cache(order)
    elif change == "select":
        cache.batch_select_indices(order)
    elif change == "crop to nothing":
        cache.crop(-cache.get_seq_length())
    else:
        cache.reset()
    if change in ("reorder", "select"):
        rows, mask = rows[order], mask[order]
    found = model.generate(rows, attention_mask=mask, past_key_values=cache, **WITH_LOGITS | how)
    wanted = model.generate(rows, attention_mask=mask, use_cache=False, **WITH_LOGITS | how)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(wanted.logits), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_trained_prefix_of_keys_has_its_gradient_in_a_decoding_step(kernel: str) -> None:
    key, value = (torch.randn(1, 2, 5, 16, requires_grad=True) for _ in range(2))
    module = torch.nn.Module()
    module.config = VisualGLMConfig()  # type: ignore[assignment]
    module.config._attn_implementation = kernel  # type: ignore[union-attr]
    context, _ = attend(module, torch.randn(1, 2, 1, 16), key, value)
    context.sum().backward()
    assert key.grad is not None and value.grad is not None and value.grad.abs().sum() > 0


def test_gradients_reach_every_parameter() -> None:
    model = tiny().train()
    ids = torch.tensor([[*prompt(2, [20, 21]), 40, 41, 83]])
    labels = torch.where(torch.arange(ids.shape[1]) < ids.shape[1] - 4, -100, ids)
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, pixel_values=torch.randn(2, 3, 24, 24), labels=labels).loss.backward()
        lost = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert lost == []


def test_gradient_checkpointing_changes_nothing() -> None:
    model = tiny().train()
    ids = torch.tensor([[*prompt(1, [20, 21]), 40, 41, 83]])
    images = torch.randn(1, 3, 24, 24)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(ids, pixel_values=images, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.gradient_checkpointing_enable()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_another_image_changes_the_logits(model: Any, reference: Reference) -> None:
    inputs = reference.inputs("img_zh")
    with torch.no_grad():
        one = model(**inputs).logits
        other = model(**{**inputs, "pixel_values": inputs["pixel_values"].flip(-1)}).logits
    assert (one - other)[:, -1].abs().max() > 1e-2


@pytest.mark.parametrize(
    "ids, images",
    [(prompt(1, [20]), 0), (prompt(1, [20]), 2), (prompt(0, [20]), 1), ([10, 96, 96, 20, 81, 82], 1)],
)
def test_placeholder_tokens_and_images_must_match(ids: list[int], images: int) -> None:
    with pytest.raises(PromptError, match="placeholder tokens"):
        tiny()(torch.tensor([ids]), pixel_values=torch.randn(images, 3, 24, 24) if images else None)


@pytest.mark.parametrize("ids", [[20, 21, 81], [20, 21, 82]])
def test_a_prompt_without_its_end_is_refused(ids: list[int]) -> None:
    with pytest.raises(PromptError, match="sop"):
        tiny()(torch.tensor([ids]))


def test_embeds_of_another_shape_are_refused() -> None:
    with pytest.raises(PromptError, match="encode_images"):
        tiny()(torch.tensor([prompt(1, [20])]), image_embeds=torch.randn(1, 4, 24))


def test_a_greedy_config_is_greedy(model: Any, reference: Reference) -> None:
    from transformers import GenerationConfig

    inputs = reference.inputs("img_zh")
    output = model.generate(**inputs, generation_config=GenerationConfig(do_sample=False, max_new_tokens=6))
    assert torch.equal(output[0, -6:], reference.tensor("img_zh", "greedy_ids")[:6])


def test_a_generated_image_id_is_not_a_placeholder() -> None:
    model = tiny()
    ids = torch.tensor([[*prompt(0, [20, 21]), 40, 96, 41]])
    with torch.no_grad():
        whole = model(ids).logits[:, -1]
        head = model(ids[:, :-3], use_cache=True)
        for index in range(-3, 0):
            head = model(ids[:, index, None], past_key_values=head.past_key_values)
    assert (whole - head.logits[:, -1]).abs().max() < 1e-4


def test_output_attentions_returns_cross_attention(model: Any, reference: Reference) -> None:
    inputs = reference.inputs("img_zh")
    with torch.no_grad():
        output, plain = model(**inputs, output_attentions=True), model(**inputs)
    assert (output.logits - plain.logits).abs().max() < 1e-4
    length = inputs["input_ids"].shape[1]
    assert [tuple(a.shape) for a in output.attentions] == [(1, 4, length, length)] * 3
    assert [tuple(a.shape) for a in output.cross_attentions] == [(1, 4, 32, 17)] * 2
    for probabilities in (*output.attentions, *output.cross_attentions):
        assert torch.allclose(probabilities.sum(-1), torch.ones(()), atol=1e-5)
    assert output.attentions[0][0, :, 0, length - 2].abs().max() > 0, "the prefix sees itself in both directions"
    assert output.attentions[0][0, :, 0, length - 1].abs().max() == 0, "<sop> is outside the prefix"


def test_higher_resolution_interpolates_and_is_saved(tmp_path: Any) -> None:
    model = tiny()
    class_row = model.image_encoder.vit.transformer.position_embeddings.weight[0].clone()
    model.resize_image_size(40)
    table = model.image_encoder.vit.transformer.position_embeddings.weight
    assert table.shape == (26, 18)
    assert torch.equal(table[0], class_row)
    inputs = {"input_ids": torch.tensor([prompt(1, [20])]), "pixel_values": torch.randn(1, 3, 40, 40)}
    model.save_pretrained(tmp_path)
    again = VisualGLMForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.config.vision.image_size == 40
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    with pytest.raises(ImageError, match="multiple"):
        model.resize_image_size(41)
    with pytest.raises(ImageError, match="40, 40"):
        model.encode_images(torch.randn(1, 3, 24, 24))


def test_device_map_auto(reference: Reference) -> None:
    inputs = reference.inputs("img_zh")
    spread = open_reference(device_map="auto")
    with torch.no_grad():
        assert (spread(**inputs).logits - reference.tensor("img_zh", "logits")).abs().max() < 1e-4


def test_the_base_model_is_the_language_model() -> None:
    """As in upstream's code; transformers and PEFT look for it by `base_model_prefix`."""
    model = tiny()
    assert model.base_model is model.transformer
    assert model.tp_plan["lm_head"] == "colwise_gather_output" and "transformer.word_embeddings" in model.tp_plan
    assert "transformer.layers.*" in model.fsdp_plan and model.supports_tp_plan and not model.supports_pp_plan
