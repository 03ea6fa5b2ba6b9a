"""LoRA in vLLM, with what it lacks: a check of the folder, and rows without an adapter on a CPU.

The layers and the loading are vLLM's. Leans on private parts of vLLM: the worker's `_load_adapter`, and the buffers of
its wrapper for CPUs.
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
    """Has workers check what they lay on our model; other models' adapters go on as before, as does a second call."""
    theirs = WorkerLoRAManager._load_adapter
    if getattr(theirs, "knows_visualglm", False):
        return

    def load(self: Any, request: LoRARequest) -> Any:
        manager = self._adapter_manager
        base = getattr(manager.model, "visualglm_folder", None)
        if base is not None:
            language_adapter(get_adapter_absolute_path(request.lora_path), base)
            if current_platform.is_cpu():
                for wrapper in manager.punica_wrapper_mapping.values():
                    zero_rows_without_adapter(wrapper)
        return theirs(self, request)

    load.knows_visualglm = True  # type: ignore[attr-defined]
    WorkerLoRAManager._load_adapter = load


def zero_rows_without_adapter(wrapper: PunicaWrapperBase) -> None:
    """Takes the adapter out of rows that have none, whose index -1 means the last one to vLLM's products on a CPU.

    A batch of requests with and without an adapter would otherwise get it in every row. A second call changes nothing.
    """
    theirs = wrapper.add_shrink
    if getattr(theirs, "spares_bare_rows", False):
        return

    def add_shrink(buffers: tuple[Tensor, ...], *given: Any, **more: Any) -> None:
        theirs(buffers, *given, **more)
        for buffer in buffers:
            buffer[wrapper.token_lora_indices < 0] = 0

    add_shrink.spares_bare_rows = True  # type: ignore[attr-defined]
    wrapper.add_shrink = add_shrink
