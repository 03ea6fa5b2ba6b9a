"""Hooks: replace or wrap parts of the model (sat's mixins).

A mixin is an `nn.Module` with methods named after hook points; the model calls them instead of its own modules. Names
and idea are SwissArmyTransformer's. A mixin is a submodule (`model.mixins`), so its weights move, train and are saved
with the model.

    word_embedding_forward   ids [B, T] -> [B, T, hidden], before image embeddings replace the placeholder tokens
    layer_forward            one block; arguments and results of `GLMBlock.forward`
    attention_forward        its attention; arguments and results of `GLMAttention.forward`
    mlp_forward              its feed-forward network, [B, T, hidden] -> [B, T, hidden]
    final_forward            the LM head, [B, kept, hidden] -> logits [B, kept, vocab_size]

Each method gets the arguments of the part and two keywords: `old_impl`, the previous implementation (call it to wrap,
ignore it to replace), and `layer_id` (-1 for `word_embedding_forward` and `final_forward`). A mixin added later is
called first. To restore a mixin from a checkpoint, use a model class whose `__init__` adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from ..errors import UsageError

LAYER_HOOKS: dict[str, Callable[[Any], nn.Module]] = {
    "layer_forward": lambda layer: layer,
    "attention_forward": lambda layer: layer.attention,
    "mlp_forward": lambda layer: layer.mlp,
}
WHOLE_MODEL = -1


class BaseMixin(nn.Module):
    """Base class of mixins; subclasses define methods named after hook points (see the module docstring)."""

    def reinit(self, parent_model: Any) -> None:
        """Initialize weights that depend on the model; called by `add_mixin(..., reinit=True)`."""


class HookableModel:
    """Methods of a model with mixins, under sat's names. The model creates `mixins`, an empty `ModuleDict`."""

    mixins: nn.ModuleDict

    def add_mixin(self, name: str, new_mixin: nn.Module, reinit: bool = False) -> None:
        """Add `new_mixin` as submodule `mixins.NAME` and hook its methods.

        Raises:
            UsageError: a mixin of that name exists.
        """
        if name in self.mixins:
            raise UsageError(f"The model already has a mixin {name!r}. Remove it (del_mixin) or choose another name.")
        self.mixins[name] = new_mixin
        self._wrap(new_mixin)
        if reinit and isinstance(new_mixin, BaseMixin):
            new_mixin.reinit(self)

    def get_mixin(self, name: str) -> Any:
        """Return the mixin of that name.

        Raises:
            UsageError: there is no mixin of that name; the message lists the existing ones.
        """
        if name not in self.mixins:
            existing = ", ".join(self.mixins) or "none"
            raise UsageError(f"This model has no mixin {name!r} (it has: {existing}). Add it with add_mixin.")
        return self.mixins[name]

    def del_mixin(self, name: str) -> None:
        """Remove the mixin and its hooks.

        Raises:
            UsageError: there is no mixin of that name.
        """
        self.get_mixin(name)
        del self.mixins[name]
        self.rewrap()

    def rewrap(self) -> None:
        """Add the hooks of every mixin exactly once, also where modules were replaced."""
        for module, _, _ in _hook_points(self):
            setattr(module, _forward_name(module), _unwrap(_forward(module)))
        for mixin in self.mixins.values():
            self._wrap(mixin)

    def _wrap(self, mixin: nn.Module) -> None:
        for module, method, layer_id in _hook_points(self):
            if hasattr(mixin, method):
                changed = partial(getattr(mixin, method), old_impl=_forward(module), layer_id=layer_id)
                setattr(module, _forward_name(module), changed)


def _forward_name(module: nn.Module) -> str:
    """Return the attribute that holds the forward to hook.

    accelerate (offloading, several devices) puts its own forward outside and calls the `_old_forward` that it found.
    """
    return "_old_forward" if hasattr(module, "_old_forward") else "forward"


def _forward(module: nn.Module) -> Callable[..., Any]:
    forward: Callable[..., Any] = getattr(module, _forward_name(module))
    return forward


def _unwrap(forward: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(forward, partial) and "old_impl" in forward.keywords:
        forward = forward.keywords["old_impl"]
    return forward


def _hook_points(model: Any) -> Iterator[tuple[nn.Module, str, int]]:
    """Yield each hookable module, the mixin method that replaces its forward, and its block index."""
    yield model.transformer.word_embeddings, "word_embedding_forward", WHOLE_MODEL
    for layer_id, layer in enumerate(model.transformer.layers):
        for method, module_of in LAYER_HOOKS.items():
            yield module_of(layer), method, layer_id
    yield model.lm_head, "final_forward", WHOLE_MODEL
