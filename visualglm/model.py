"""The public model class `VisualGLMForConditionalGeneration`: the network with load, save, quantize and chat."""

from __future__ import annotations

from os import PathLike
from typing import Any

from .checkpoints import load_model, quantize_model
from .checkpoints.save_sat import require_no_adapter
from .inference.upstream_chat import UpstreamChat
from .network.visualglm import VisualGLMNetwork


class VisualGLMForConditionalGeneration(VisualGLMNetwork, UpstreamChat):
    """VisualGLM as a transformers model; shapes: `network/visualglm.py`, `chat`: `inference/upstream_chat.py`."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> VisualGLMForConditionalGeneration:
        """Open a checkpoint of any layout: a folder (Hugging Face, sat, native) or a hub id.

        Keyword arguments are transformers' (`dtype`, `device_map`, `tp_plan`, `attn_implementation`, ...).

        Raises:
            CheckpointError: the files are not a complete VisualGLM checkpoint; the message names what is wrong.
        """
        return load_model(cls, pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Write the native layout, as transformers does.

        Raises:
            UsageError: an adapter is attached, and nothing could open a folder with both.
        """
        if not getattr(self, "_hf_peft_config_loaded", False):  # otherwise transformers writes only its adapter
            require_no_adapter(self)
        super().save_pretrained(*args, **kwargs)

    def quantize(self, bits: int, *args: Any, **kwargs: Any) -> Any:
        """Quantize the language model's linears to 8 or 4 bits in place, as upstream's call does; return the model.

        Keyword arguments `vision`, `vocabulary` and `group_size` are those of `checkpoints.quantize.plan`; upstream's
        own are ignored. `visualglm.load(..., quantize=bits)` needs less memory, since it never holds all 16-bit
        weights.

        Raises:
            QuantizationError: other bits, adapters on the linears, or weights that are not finite.
            UsageError: the model is already quantized in another way.
        """
        options = {key: kwargs[key] for key in ("vision", "vocabulary", "group_size") if key in kwargs}
        return quantize_model(self, bits, **options)
