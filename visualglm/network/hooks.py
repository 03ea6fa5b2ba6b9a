"""Pieces of the model replaced or wrapped from outside, without editing it.

In: an `nn.Module` whose methods bear the names of places. Out: a model that calls them there. The idea and the names
are SwissArmyTransformer's; the means are torch's own: a mixin is a submodule (`model.mixins`), so its weights move,
train and are saved with the model, and nothing is registered anywhere else.

    word_embedding_forward   ids [B, T] -> [B, T, hidden], before the pictures' vectors fill their slots
    layer_forward            one whole block; arguments and results are `GLMBlock.forward`'s
    attention_forward        its attention, `GLMAttention.forward`'s
    mlp_forward              its feed-forward network, [B, T, hidden] -> [B, T, hidden]
    final_forward            the head, [B, kept, hidden] -> logits [B, kept, vocabulary]

Each is called with the place's own arguments and two keywords: `old_impl`, what stood there before (call it to wrap, do
not to replace), and `layer_id` (-1 for the first and the last place). A mixin added later is called first. Knows
nothing about files; what a checkpoint needs to restore a mixin is a class whose `__init__` adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from ..errors import UsageError

LAYER_PLACES: dict[str, Callable[[Any], nn.Module]] = {
    "layer_forward": lambda layer: layer,
    "attention_forward": lambda layer: layer.attention,
    "mlp_forward": lambda layer: layer.mlp,
}
WHOLE_MODEL = -1


class BaseMixin(nn.Module):
    """A change to the model: give it methods named after places (see the head of this file)."""

    def reinit(self, parent_model: Any) -> None:
        """Called by `add_mixin(..., reinit=True)`: sets first values that depend on the model. sat's name."""


class HookableModel:
    """Methods of a model that takes mixins, under sat's names. The model makes `mixins`, an empty `ModuleDict`."""

    mixins: nn.ModuleDict

    def add_mixin(self, name: str, new_mixin: nn.Module, reinit: bool = False) -> None:
        """Makes `new_mixin` the submodule `mixins.NAME` and has its methods called.

        Raises:
            UsageError: there is one of that name already.
        """
        if name in self.mixins:
            raise UsageError(f"there is a mixin {name!r} already: del_mixin it first, or choose another name.")
        self.mixins[name] = new_mixin
        self._wrap(new_mixin)
        if reinit and isinstance(new_mixin, BaseMixin):
            new_mixin.reinit(self)

    def get_mixin(self, name: str) -> Any:
        """The mixin of that name.

        Raises:
            UsageError: there is none; the message names those that are there.
        """
        if name not in self.mixins:
            there = ", ".join(self.mixins) or "none"
            raise UsageError(f"this model has no mixin {name!r} (it has: {there}): add it with add_mixin.")
        return self.mixins[name]

    def del_mixin(self, name: str) -> None:
        """Takes the mixin out; the model computes as without it.

        Raises:
            UsageError: there is none of that name.
        """
        self.get_mixin(name)
        del self.mixins[name]
        self.rewrap()

    def rewrap(self) -> None:
        """Has every mixin called once in every place, those whose modules were replaced included."""
        for module, _, _ in _places(self):
            module.forward = _unwrapped(module.forward)  # type: ignore[method-assign]
        for mixin in self.mixins.values():
            self._wrap(mixin)

    def _wrap(self, mixin: nn.Module) -> None:
        for module, method, layer_id in _places(self):
            if hasattr(mixin, method):
                changed = partial(getattr(mixin, method), old_impl=module.forward, layer_id=layer_id)
                module.forward = changed  # type: ignore[method-assign]


def _unwrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(forward, partial) and "old_impl" in forward.keywords:
        forward = forward.keywords["old_impl"]
    return forward


def _places(model: Any) -> Iterator[tuple[nn.Module, str, int]]:
    """The modules that can be changed, the method that changes each, and the number of its block."""
    yield model.transformer.word_embeddings, "word_embedding_forward", WHOLE_MODEL
    for layer_id, layer in enumerate(model.transformer.layers):
        for method, module_of in LAYER_PLACES.items():
            yield module_of(layer), method, layer_id
    yield model.lm_head, "final_forward", WHOLE_MODEL
