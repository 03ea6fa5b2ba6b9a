"""Insert PEFT's layers into an open model completely or not at all.

In: a model, and the name under which layers are inserted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CheckpointError, UsageError, VisualGLMError


@contextmanager
def rollback_on_error(model: Any, name: str, source: Any) -> Iterator[None]:
    """Insert, inside the block, the adapter `name` from the folder `source`; any error restores the model.

    Raises:
        CheckpointError: it does not fit this model; torch's and PEFT's errors, or a `ValueError` inside, say why.
        UsageError: the same if there are other adapters, which may be the reason.
    """
    children = [(module, dict(module._modules)) for module in model.modules()]
    at_work = [(module, list(module.active_adapters), module.disable_adapters) for module in _layers(model)]
    try:
        yield
    except BaseException as error:
        _take_out(model, name, children, at_work)
        if isinstance(error, VisualGLMError) or not isinstance(error, (KeyError, RuntimeError, TypeError, ValueError)):
            raise
        reason = " ".join(str(error).split())[:300]
        if at_work:
            raise UsageError(
                f"{source} cannot be combined with the attached adapters, or does not fit the model ({reason}). "
                "Open the model with this one alone."
            ) from error
        raise CheckpointError(f"{source} does not fit its model ({reason}). Copy it again.") from error


def _layers(model: Any) -> Iterator[Any]:
    """Yield PEFT's modules in the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    return (module for module in model.modules() if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)))


def _take_out(model: Any, name: str, children: list[tuple[Any, Any]], at_work: list[tuple[Any, Any, bool]]) -> None:
    """Restore the previous modules, without anything of the adapter `name`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT names one to activate instead; the previous one is activated below
        for layer, _, _ in at_work:
            layer.delete_adapter(name, *([],) if hasattr(layer, "modules_to_save") else ())
    for module, before in children:
        module._modules.clear()
        module._modules.update(before)
    for layer, active, disabled in at_work:
        layer.set_adapter(active)
        layer.enable_adapters(not disabled)
    if at_work:
        model.requires_grad_(False)  # PEFT's switches make the active layers trainable
    if name in getattr(model, "peft_config", {}):
        del model.peft_config[name]
        if not model.peft_config:
            del model.peft_config
