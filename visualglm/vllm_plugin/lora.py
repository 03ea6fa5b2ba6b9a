"""Patches for LoRA in vLLM: adapter checks, and a fix on CPUs.

Layers and loading are vLLM's. Two things are added: each adapter is checked before it is loaded, and on a CPU rows
without an adapter stay unchanged. Depends on private parts of vLLM: the worker's `_load_adapter`, and the buffers of
its CPU wrapper.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.lora.request import LoRARequest
from vllm.lora.utils import get_adapter_absolute_path
from vllm.lora.worker_manager import WorkerLoRAManager
from vllm.platforms import current_platform

from .supported_checkpoints import language_adapter


def patch_lora_loading() -> None:
    """Make workers check adapters for VisualGLM before loading them. Idempotent; other models are unaffected."""
    original = WorkerLoRAManager._load_adapter
    if getattr(original, "supports_visualglm", False):
        return

    def load(self: Any, request: LoRARequest) -> Any:
        manager = self._adapter_manager
        base = getattr(manager.model, "visualglm_folder", None)
        if base is not None:
            language_adapter(get_adapter_absolute_path(request.lora_path), base)
            if current_platform.is_cpu():
                for wrapper in manager.punica_wrapper_mapping.values():
                    zero_rows_without_adapter(wrapper)
        return original(self, request)

    load.supports_visualglm = True  # type: ignore[attr-defined]
    WorkerLoRAManager._load_adapter = load


def zero_rows_without_adapter(wrapper: PunicaWrapperBase) -> None:
    """Zero the LoRA product of rows without an adapter. Idempotent.

    Such rows have index -1, which vLLM's CPU code takes as the last adapter. So in a mixed batch it would apply an
    adapter to every row.
    """
    original = wrapper.add_shrink
    if getattr(original, "zeroes_rows_without_adapter", False):
        return

    def add_shrink(buffers: tuple[Tensor, ...], *args: Any, **kwargs: Any) -> None:
        original(buffers, *args, **kwargs)
        for buffer in buffers:
            buffer[wrapper.token_lora_indices < 0] = 0

    add_shrink.zeroes_rows_without_adapter = True  # type: ignore[attr-defined]
    wrapper.add_shrink = add_shrink
