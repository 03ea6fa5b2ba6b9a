"""Choose which modules are quantized, and replace them.

`QuantizationConfig` is the `quantization_config` of a quantized checkpoint's `config.json`: patterns of module names
with their bits, and the group size. `replace_modules` replaces every linear or embedding that a pattern matches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import QuantizationError
from ..kernels.fast_linear import FastLinear
from ..kernels.packing import DEFAULT_GROUP_SIZE, Bits, check_format

METHOD = "visualglm"
PLAIN = (nn.Linear, FastLinear, nn.Embedding)
"""Classes that can be quantized, without subclasses: other libraries' subclasses hold other tensors."""


@register_quantization_config(METHOD)
class QuantizationConfig(QuantizationConfigMixin):
    """Bits per module name pattern, in transformers' form.

    `modules`: pattern (`*` matches anything) -> bits; the longest match counts, unmatched modules stay as they are.
    None leaves the choice to the model: its usual linears in `bits` bits. `group_size` holds for all 4-bit modules.

    Raises:
        QuantizationError: unsupported bits or group size, or an unknown field.
    """

    def __init__(
        self,
        bits: Bits = 4,
        group_size: int = DEFAULT_GROUP_SIZE,
        modules: Mapping[str, Bits] | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(kwargs) - {"quant_method"})
        if unknown or kwargs.get("quant_method", METHOD) != METHOD:
            raise QuantizationError(
                f"quantization_config has {', '.join(unknown) or 'another quant_method'}, which this version cannot "
                "read. Update visualglm."
            )
        self.quant_method = METHOD  # type: ignore[assignment]
        self.bits, self.group_size = bits, group_size
        self.modules = None if modules is None else dict(modules)
        for wanted in (bits, *(modules or {}).values()):
            check_format(wanted, group_size)

    def bits_of(self, name: str) -> Bits | None:
        """Return the bits of the module of that name, None where it is not quantized."""
        fitting = [pattern for pattern in self.modules or {} if fnmatchcase(name, pattern)]
        return (self.modules or {})[max(fitting, key=len)] if fitting else None


def replace_modules(
    model: nn.Module, config: QuantizationConfig, made: Callable[[Any, Bits], nn.Module], prefix: str = ""
) -> list[str]:
    """Replace each selected linear or embedding by `made(module, bits)`; return their names.

    `prefix`: where `model` is a part of the whole, what names in `config` have before names in `model`.
    """
    swapped = []
    for name, module in select_modules(model, config, prefix):
        model.set_submodule(name, made(module, config.bits_of(prefix + name)))  # type: ignore[arg-type]
        swapped.append(name)
    return swapped


def select_modules(model: nn.Module, config: QuantizationConfig | None, prefix: str = "") -> list[tuple[str, Any]]:
    """Return names and modules of the linears and embeddings that `config` selects; all of them where it is None."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) in PLAIN and (config is None or config.bits_of(prefix + name) is not None)
    ]
