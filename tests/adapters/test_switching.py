"""Switching between adapters: never under a running answer, and images are read with the one that answers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from visualglm.errors import UsageError

from .conftest import IMAGES, opened

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": 766}


def test_no_switch_under_a_running_answer(adapters: Any) -> None:
    model = opened()
    for name in ("one", "two"):
        model.add_adapter(adapters[name])
    first, second = (model.conversation(IMAGES[0], adapter=name) for name in ("one", "two"))
    alone = model.conversation(IMAGES[0], adapter="one").ask("?", **GREEDY)
    running = first.stream("?", **GREEDY)
    next(running)
    for attempt in (
        lambda: second.ask("?", **GREEDY),
        lambda: model.use_adapter(None),
        lambda: model.add_adapter(adapters["prefix"]),
    ):
        with pytest.raises(UsageError, match="being generated with the adapter 'one'"):
            attempt()
    model.use_adapter("one")
    for _ in running:
        pass
    assert first.answer is not None and first.answer.text == alone.text
    second.ask("?", **GREEDY)


def test_images_are_read_with_the_adapter_and_the_model_that_answer(adapters: Any) -> None:
    model, other = opened(), opened()
    for value in other.model.image_encoder.parameters():
        value.data.mul_(1.3)
    talk = model.conversation(IMAGES[0])
    _, history = model.model.chat(model.tokenizer, IMAGES[0], "?", history=[], **GREEDY)
    bare = talk._image_embeds[0]
    model.add_adapter(adapters["projection"])
    fresh = model.conversation(IMAGES[0])._image_embeds[0]
    assert not torch.equal(fresh, bare) and torch.equal(talk._image_embeds[0], fresh)
    for given in ((IMAGES[0], "?"), ("?",)):
        _, later = model.model.chat(model.tokenizer, *given, history=copy.deepcopy(history), **GREEDY)
        assert torch.equal(later.image_embeds, fresh)
    _, elsewhere = other.model.chat(other.tokenizer, "?", history=history, **GREEDY)
    assert torch.equal(elsewhere.image_embeds, other.conversation(IMAGES[0])._image_embeds[0])
    model.use_adapter(None)
    assert torch.equal(talk._image_embeds[0], bare)
