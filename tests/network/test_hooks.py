"""Hooks: each hook point can be wrapped and replaced; mixins are removed, saved, restored; nothing leaks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from torch import Tensor, nn

from visualglm.errors import CheckpointError, UsageError
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.hooks import LAYER_HOOKS, BaseMixin
from visualglm.network.prefix_tuning import PrefixMixin

from ..conftest import REFERENCE, open_reference

IDS = torch.tensor([[9, 10, 11, 401, 404]])
HOOK_POINTS = ["word_embedding_forward", *LAYER_HOOKS, "final_forward"]


@pytest.fixture(scope="module")
def opened() -> VisualGLMForConditionalGeneration:
    """Return the model; shared, so tests must remove what they add."""
    return open_reference()


@torch.no_grad()
def logits(model: VisualGLMForConditionalGeneration, **kwargs: Any) -> Tensor:
    return model(IDS, **kwargs).logits


class Noting(BaseMixin):
    """Records its calls at one hook point and scales its output."""

    def __init__(self, place: str, factor: float = 1.0) -> None:
        super().__init__()
        self.calls: list[int] = []

        def called(*args: Any, old_impl: Any, layer_id: int, **kwargs: Any) -> Any:
            self.calls.append(layer_id)
            output = old_impl(*args, **kwargs)
            return (output[0] * factor, *output[1:]) if isinstance(output, tuple) else output * factor

        setattr(self, place, called)


@pytest.mark.parametrize("place", ["word_embedding_forward", "final_forward"])
def test_accelerates_hooks_and_mixins_come_and_go_in_any_order(place: str) -> None:
    """accelerate's forward stays outside of ours, so that a mixin can be removed and its hooks, too."""
    model = open_reference()
    before = logits(model)
    model.add_mixin("first", Noting(place, 1.5))
    changed = logits(model)
    cpu_offload(model, torch.device("cpu"))
    assert torch.equal(logits(model), changed)
    model.del_mixin("first")
    assert torch.equal(logits(model), before)
    model.add_mixin("second", Noting(place, 1.5))
    remove_hook_from_submodules(model)
    assert torch.equal(logits(model), changed)
    model.del_mixin("second")
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("place", HOOK_POINTS)
def test_every_place_is_called_once_and_its_answer_counts(opened: Any, place: str) -> None:
    before = logits(opened)
    mixin = Noting(place, 1.5)
    opened.add_mixin("noting", mixin)
    assert not torch.equal(logits(opened), before)
    opened.del_mixin("noting")
    layers = list(range(opened.config.num_layers)) if place in LAYER_HOOKS else [-1]
    assert mixin.calls == layers and torch.equal(logits(opened), before)


def test_later_mixins_wrap_earlier_ones_and_leave_them_when_they_go(opened: Any) -> None:
    class Adding(BaseMixin):
        def mlp_forward(self, hidden_states: Tensor, old_impl: Any, layer_id: int) -> Tensor:
            return old_impl(hidden_states) + 1

    opened.add_mixin("adding", Adding())
    once = logits(opened)
    doubling = Noting("mlp_forward", 2.0)
    opened.add_mixin("doubling", doubling)
    both = logits(opened)
    opened.del_mixin("adding")
    doubled = logits(opened)
    opened.del_mixin("doubling")
    assert not torch.equal(once, both) and not torch.equal(both, doubled)
    opened.add_mixin("doubling", Noting("mlp_forward", 2.0))
    assert torch.equal(logits(opened), doubled)
    opened.del_mixin("doubling")


def test_replacing_a_piece(opened: Any) -> None:
    class Silent(BaseMixin):
        def mlp_forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
            return torch.zeros_like(hidden_states)

    opened.add_mixin("silent", Silent())
    found = logits(opened)
    opened.del_mixin("silent")
    for layer in opened.transformer.layers:
        layer.mlp.forward = torch.zeros_like
    by_hand = logits(opened)
    for layer in opened.transformer.layers:
        del layer.mlp.forward
    assert torch.equal(found, by_hand)


def test_a_copy_keeps_its_own_mixins(opened: Any) -> None:
    opened.add_mixin("noting", Noting("final_forward", 3.0))
    changed = logits(opened)
    twin = copy.deepcopy(opened)
    opened.del_mixin("noting")
    assert torch.equal(logits(twin), changed) and not torch.equal(logits(opened), changed)


def test_reinit_sees_the_model(opened: Any) -> None:
    class Copying(BaseMixin):
        def reinit(self, parent_model: Any) -> None:
            self.first = parent_model.transformer.final_layernorm.weight.detach().clone()

    opened.add_mixin("copying", Copying(), reinit=True)
    assert torch.equal(opened.get_mixin("copying").first, opened.transformer.final_layernorm.weight)
    opened.del_mixin("copying")


class Branch(BaseMixin):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.hidden_size)

    def mlp_forward(self, hidden_states: Tensor, old_impl: Any, layer_id: int) -> Tensor:
        return old_impl(hidden_states) + self.up(hidden_states)


class WithBranch(VisualGLMForConditionalGeneration):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.add_mixin("branch", Branch(config))


def test_saved_and_restored(opened: Any, tmp_path: Path) -> None:
    """The class that adds the mixin restores it; any other class raises an error."""
    opened.add_mixin("branch", Branch(opened.config))
    changed = logits(opened)
    opened.save_pretrained(tmp_path)
    opened.del_mixin("branch")
    again = WithBranch.from_pretrained(str(tmp_path)).eval()
    assert torch.equal(logits(again), changed)
    with pytest.raises(CheckpointError, match="mixins were added"):
        VisualGLMForConditionalGeneration.from_pretrained(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"mixins\.branch\.up\.weight"):
        WithBranch.from_pretrained(str(REFERENCE / "hf"))


def test_generation_and_training_go_through(opened: Any) -> None:
    opened.add_mixin("branch", Branch(opened.config))
    greedy = opened.generate(IDS, do_sample=False, max_new_tokens=4, eos_token_id=767)
    with torch.no_grad():
        assert int(opened(greedy[:, :-1]).logits[0, -1].argmax()) == int(greedy[0, -1])
    opened(IDS, labels=IDS).loss.backward()
    assert opened.mixins["branch"].up.weight.grad.abs().sum() > 0
    opened.zero_grad()
    opened.del_mixin("branch")


def test_a_prefix_refuses_flex_attention(opened: Any) -> None:
    config = copy.deepcopy(opened.config)
    config.prefix_length = 2
    mixin = PrefixMixin(config)
    with pytest.raises(UsageError, match="sdpa"):
        mixin.attention_forward(torch.zeros(1), (torch.zeros(1),) * 2, object(), None, False, old_impl=None, layer_id=0)
