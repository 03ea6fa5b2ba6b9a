"""PEFT's layers in an open model: laid on whole or not at all, and told from a model's own.

In: a model, and the name under which layers are being laid on it. Knows nothing about files.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CheckpointError, UsageError, VisualGLMError


@contextmanager
def rollback_on_error(model: Any, name: str, source: Any) -> Iterator[None]:
    """Lays on, inside, the adapter `name` from the folder `source`; on any error the model is as it was before.

    Raises:
        CheckpointError: it does not fit this model; torch's and PEFT's errors, or a `ValueError` inside, say why.
        UsageError: the same where other adapters are there, which may be the reason.
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
                f"{source} cannot be laid on beside the adapters that are there, or does not fit the model ({reason}). "
                "Open the model with this one alone."
            ) from error
        raise CheckpointError(f"{source} does not fit its model ({reason}). Copy it again.") from error


def _layers(model: Any) -> Iterator[Any]:
    """PEFT's modules in the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    return (module for module in model.modules() if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)))


def _take_out(model: Any, name: str, children: list[tuple[Any, Any]], at_work: list[tuple[Any, Any, bool]]) -> None:
    """The modules that stood there before, in their old places, without anything of the adapter `name`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says which it would put to work instead; the one before is, below
        for layer, _, _ in at_work:
            layer.delete_adapter(name, *([],) if hasattr(layer, "modules_to_save") else ())
    for module, before in children:
        module._modules.clear()
        module._modules.update(before)
    for layer, active, disabled in at_work:
        layer.set_adapter(active)
        layer.enable_adapters(not disabled)
    if at_work:
        model.requires_grad_(False)  # PEFT's switches let what is at work train
    if name in getattr(model, "peft_config", {}):
        del model.peft_config[name]
        if not model.peft_config:
            del model.peft_config
