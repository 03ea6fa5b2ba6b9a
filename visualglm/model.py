"""`VisualGLMForConditionalGeneration`: the network with what transformers' users call: load, save, quantize, chat."""

from __future__ import annotations

from typing import Any

from .checkpoints import load_model, quantize_model
from .checkpoints.save_sat import require_no_adapter
from .inference.upstream_chat import UpstreamChat
from .network.visualglm import VisualGLMNetwork


class VisualGLMForConditionalGeneration(VisualGLMNetwork, UpstreamChat):
    """VisualGLM as a transformers model; shapes: `network/visualglm.py`, `chat`: `inference/upstream_chat.py`."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | None, *args: Any, **kwargs: Any
    ) -> VisualGLMForConditionalGeneration:
        """Opens a checkpoint of any layout: a folder (Hugging Face, sat, ours) or a hub id.

        Keyword arguments are transformers' (`dtype`, `device_map`, `tp_plan`, `attn_implementation`, ...).

        Raises:
            CheckpointError: the files are not a complete VisualGLM checkpoint; the message names what is wrong.
        """
        return load_model(cls, pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Writes our own layout, as transformers does.

        Raises:
            UsageError: an adapter is laid on the model: nothing could open a folder with both.
        """
        if not getattr(self, "_hf_peft_config_loaded", False):  # else transformers writes its adapter alone
            require_no_adapter(self)
        super().save_pretrained(*args, **kwargs)

    def quantize(self, bits: int, *args: Any, **kwargs: Any) -> Any:
        """Stores the language model's linears in 8 or 4 bits from now on, as upstream's call; returns the model.

        Keyword arguments `vision`, `vocabulary` and `group_size` are `checkpoints.quantize.plan`'s; upstream's own are
        ignored. `visualglm.load(..., quantize=bits)` needs less memory: it never holds the 16-bit weights.

        Raises:
            QuantizationError: other bits, adapters on the linears, or weights that are not finite.
            UsageError: it is quantized otherwise already.
        """
        options = {key: kwargs[key] for key in ("vision", "vocabulary", "group_size") if key in kwargs}
        return quantize_model(self, bits, **options)
