"""Which modules of a model are stored in how many bits, and the modules put in their places.

`QuantizationConfig` is what stands in a quantized checkpoint's `config.json` as `quantization_config`, explicit in
every respect: patterns of module names with their bits, and the group size. `replace_modules` puts the quantized kind
of a module wherever a pattern matches a linear or an embedding. Knows nothing about VisualGLM: the patterns are the
caller's.
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
"""Modules that can be quantized; those that other libraries derive from them hold something else."""


@register_quantization_config(METHOD)
class QuantizationConfig(QuantizationConfigMixin):
    """`modules`: patterns of module names (`*` for anything) -> bits; the longest that fits counts, the rest stay.

    None leaves the choice to the model: its usual linears in `bits` bits. `group_size` is that of all 4-bit modules.

    Raises:
        QuantizationError: bits or group size are none that are offered.
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
                f"quantization_config has {', '.join(unknown) or 'another quant_method'}, which this version does not "
                "know: update visualglm."
            )
        self.quant_method = METHOD  # type: ignore[assignment]
        self.bits, self.group_size = bits, group_size
        self.modules = None if modules is None else dict(modules)
        for wanted in (bits, *(modules or {}).values()):
            check_format(wanted, group_size)

    def bits_of(self, name: str) -> Bits | None:
        """Bits of the module of that name, None where it stays as it is."""
        fitting = [pattern for pattern in self.modules or {} if fnmatchcase(name, pattern)]
        return (self.modules or {})[max(fitting, key=len)] if fitting else None


def replace_modules(
    model: nn.Module, config: QuantizationConfig, made: Callable[[Any, Bits], nn.Module], prefix: str = ""
) -> list[str]:
    """Puts `made(module, bits)` in the place of each linear or embedding that the configuration names; their names.

    `prefix` is what the names in `config` have before those in `model`, where it is a part of the whole.
    """
    swapped = []
    for name, module in select_modules(model, config, prefix):
        model.set_submodule(name, made(module, config.bits_of(prefix + name)))  # type: ignore[arg-type]
        swapped.append(name)
    return swapped


def select_modules(model: nn.Module, config: QuantizationConfig | None, prefix: str = "") -> list[tuple[str, Any]]:
    """The linears and embeddings that the configuration names, with their names; all of them where it is None."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) in PLAIN and (config is None or config.bits_of(prefix + name) is not None)
    ]
