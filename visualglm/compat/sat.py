"""Upstream's sat-style API: classes and functions that its scripts call.

    model, args = VisualGLMModel.from_pretrained("visualglm-6b", args=argparse.Namespace(fp16=True, skip_init=True))
    model.add_mixin("auto-regressive", CachedAutoregressiveMixin())
    response, history, cache_image = chat(path, model, tokenizer, "描述这张图片。", history=[])

In `from model import ...`, `from finetune_visualglm import ...` and `from sat... import ...`, replace the module by
this one; nothing else changes. The models are this package's own with sat's methods, and answers are generated as in
every other interface. Sources: upstream's `model/*.py`, `finetune_visualglm.py`; sat 0.4.12 `model/base_model.py`.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer

from .. import auto  # noqa: F401  registers the tokenizer, which upstream's scripts open with AutoTokenizer
from ..adapters.lora import LoraMixin
from ..checkpoints import load_model, local_folder, open_checkpoint, quantize_model, sat_arguments, save_sat
from ..errors import ImageError, UsageError
from ..model import VisualGLMForConditionalGeneration
from ..network.hooks import BaseMixin
from ..network.prefix_tuning import PrefixMixin as PTuningV2Mixin
from ..preprocessing.images import open_image
from ..preprocessing.sentencepiece_vocabulary import VOCABULARY_FILE
from .sat_chat import chat

__all__ = [
    "AutoModel",
    "BaseMixin",
    "CachedAutoregressiveMixin",
    "FineTuneVisualGLMModel",
    "LoraMixin",
    "PTuningV2Mixin",
    "VisualGLMModel",
    "chat",
    "generate_input",
    "get_infer_setting",
    "is_chinese",
    "quantize",
    "save_checkpoint",
]
CHINESE = re.compile("[\u4e00-\u9fa5]+")
TOKENIZER = "THUDM/chatglm-6b"


class CachedAutoregressiveMixin(BaseMixin):
    """Does nothing: sat's mixin for the KV cache, which every model of this package has already."""


class VisualGLMModel(VisualGLMForConditionalGeneration):
    """The model under sat's name, with sat's `from_pretrained`."""

    @property
    def image_length(self) -> int:
        """Placeholder tokens of one image."""
        return self.config.image_length

    def get_mixin(self, name: str) -> Any:
        """Return the mixin of that name; `eva` and `chatglm-final` return the image encoder and the LM head.

        Raises:
            UsageError: there is no mixin of that name.
        """
        if name == "eva":
            return SimpleNamespace(model=self.image_encoder)
        return SimpleNamespace(lm_head=self.lm_head) if name == "chatglm-final" else super().get_mixin(name)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        name: str | Path,
        args: argparse.Namespace | None = None,
        *,
        home_path: str | Path | None = None,
        overwrite_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, argparse.Namespace]:
        """Load a model and return it with its arguments.

        Args:
            name: a folder of any layout, or the name of one in `home_path` (else `SAT_HOME`, else ~/.sat_models).
            args: `fp16`, `bf16` (neither: float32) and `device` are read; other fields are returned unchanged.
            overwrite_args: fields to set in the returned arguments.
            kwargs: other arguments of `from_pretrained`. Arguments that only sat has (`url`, ...) are rejected.

        Raises:
            CheckpointError: the folder does not exist, or is not a complete checkpoint.
            UsageError: an argument has no meaning outside sat.
        """
        folder, given, options = _load_options(name, args, home_path, kwargs)
        model = cls._load_folder(folder, given, options)
        fields = {**vars(given), **sat_arguments(model.config), **(overwrite_args or {})}  # the last wins, as in sat
        return model, argparse.Namespace(**{"device": str(model.device), **fields})

    @classmethod
    def _load_folder(cls, folder: Path, given: argparse.Namespace, options: dict[str, Any]) -> Any:
        return load_model(cls, folder, **options).eval()


class FineTuneVisualGLMModel(VisualGLMModel):
    """Model with an adapter: loaded from a fine-tuned folder, or new on a base model.

    `get_mixin("lora").merge_lora()` merges LoRA into the weights; `get_mixin("ptuning")` is the prefix. In
    `from_pretrained`, `args.use_lora` (`lora_rank`, `layer_range`) and `args.use_ptuning` (`pre_seq_len`) attach a new
    adapter to a base that has none. LoRA requires the optional package peft, else a `UsageError` is raised.
    """

    @classmethod
    def _load_folder(cls, folder: Path, given: argparse.Namespace, options: dict[str, Any]) -> Any:
        stored = open_checkpoint(folder, merge=False)
        model = load_model(cls, folder, merge_lora=False, **options).eval()
        if stored.low_rank:
            model.add_mixin("lora", LoraMixin.stored(model, stored.low_rank, stored.folder))
        elif getattr(given, "use_lora", False):
            model.add_mixin("lora", LoraMixin.new(model, given.lora_rank, getattr(given, "layer_range", None)))
        if getattr(given, "use_ptuning", False) and not model.config.prefix_length:
            model.config.prefix_length = given.pre_seq_len
            model.add_mixin("ptuning", PTuningV2Mixin(model.config).to(model.device, model.dtype))
        return model


class AutoModel:
    """sat's `AutoModel`: chooses the class that fits the folder."""

    @staticmethod
    def from_pretrained(
        name: str | Path, args: argparse.Namespace | None = None, **kwargs: Any
    ) -> tuple[Any, argparse.Namespace]:
        """Load `FineTuneVisualGLMModel` from a folder with LoRA or a prefix, else `VisualGLMModel`.

        Raises:
            CheckpointError: the folder does not exist, or is not a complete checkpoint.
        """
        stored = open_checkpoint(_find_folder(name, kwargs.get("home_path")), merge=False)
        has_adapter = stored.low_rank or stored.config.prefix_length
        return (FineTuneVisualGLMModel if has_adapter else VisualGLMModel).from_pretrained(name, args, **kwargs)


def _load_options(
    name: str | Path, args: argparse.Namespace | None, home_path: str | Path | None, kwargs: dict[str, Any]
) -> tuple[Path, argparse.Namespace, dict[str, Any]]:
    """Return the folder, the arguments as given, and the keyword arguments of `load_model`."""
    unsupported = sorted({"url", "prefix", "build_only", "use_node_group"} & set(kwargs))
    if unsupported:
        raise UsageError(f"{', '.join(unsupported)} has no meaning outside sat. Remove it.")
    given = argparse.Namespace() if args is None else args
    folder = _find_folder(name, home_path)
    step = kwargs.pop("specific_iteration", None)
    options = {"dtype": _dtype(given), "device_map": _device(given), **kwargs}
    return folder if step is None else folder / str(step), given, options


def _find_folder(name: str | Path, home_path: str | Path | None) -> Path:
    """Return the folder `name` if it exists, else the one of that name in sat's home."""
    if home_path is not None and not Path(name).exists():
        return local_folder(Path(home_path).expanduser() / name)
    return local_folder(name)


def _dtype(args: argparse.Namespace) -> torch.dtype:
    if getattr(args, "fp16", False):
        return torch.float16
    return torch.bfloat16 if getattr(args, "bf16", False) else torch.float32


def _device(args: argparse.Namespace) -> str:
    device = getattr(args, "device", None)
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{device}" if isinstance(device, int) else str(device)


def quantize(model: Any, weight_bit_width: int) -> Any:
    """Quantize the language model's linear layers in place: sat's `quantize(model, 8 | 4)`.

    `model` is the model or its `transformer`. With a whole model, sat also quantizes the image encoder and the LM head;
    here they keep their dtype.

    Raises:
        QuantizationError: other bits, or an adapter is attached to the layers.
        UsageError: the model is already quantized with other bits.
    """
    return quantize_model(model, weight_bit_width)


def get_infer_setting(
    gpu_device: int = 0, quant: int | None = None, *, name: str | Path = "visualglm-6b", tokenizer: str | None = None
) -> tuple[Any, Any]:
    """Load model and tokenizer, as upstream's web page and API do.

    Args:
        gpu_device: the only CUDA device that is visible to this process.
        quant: 8 or 4 bits.
        name: a folder, by default visualglm-6b in SAT_HOME.
        tokenizer: folder or hub id of the vocabulary; by default the weights' folder, else THUDM/chatglm-6b.

    Raises:
        CheckpointError: the folder does not exist, or is not a complete checkpoint.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu_device)
    model, _ = AutoModel.from_pretrained(name, argparse.Namespace(fp16=True, skip_init=True))
    model.add_mixin("auto-regressive", CachedAutoregressiveMixin())
    if quant is not None:
        model = quantize(model, quant)
    folder = local_folder(name)
    source = tokenizer or (folder if (folder / VOCABULARY_FILE).is_file() else TOKENIZER)
    return model, AutoTokenizer.from_pretrained(source, trust_remote_code=True)


def is_chinese(text: str) -> re.Match[str] | None:
    """Find a Chinese character in the text; upstream's demos choose 问/答 or Q/A by it."""
    return CHINESE.search(text)


def generate_input(
    input_text: str,
    input_image_prompt: Any,
    history: Iterable[tuple[str, str]] = (),
    input_para: dict[str, Any] | None = None,
    image_is_encoded: bool = True,
) -> dict[str, Any]:
    """Build upstream's request dictionary; the image is decoded from base64 unless `image_is_encoded` is False.

    Raises:
        ImageError: the base64 is invalid, or its content is not an image.
    """
    image = _decode_image(input_image_prompt) if image_is_encoded else input_image_prompt
    return {"input_query": input_text, "input_image": image, "history": list(history), "gen_kwargs": input_para}


def _decode_image(encoded: str | bytes) -> Image.Image:
    try:
        content = base64.b64decode(encoded)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"The image's base64 is invalid ({error}). Encode the whole file again.") from error
    return open_image(io.BytesIO(content))


def save_checkpoint(iteration: int, model: Any, optimizer: Any, lr_scheduler: Any, args: argparse.Namespace) -> None:
    """Write the model as step `iteration` of the sat folder `args.save`; only the model is stored.

    Raises:
        UsageError: LoRA is not merged, an optimizer or scheduler is given, the model is quantized, or the folder
            cannot be written.
    """
    if "lora" in model.mixins and not model.get_mixin("lora").is_merged:
        raise UsageError("LoRA is not merged into the weights. Call model.get_mixin('lora').merge_lora() first.")
    if optimizer is not None or lr_scheduler is not None:
        raise UsageError("save_checkpoint stores only the model. Pass None for optimizer and lr_scheduler.")
    save_sat(model, args.save, str(iteration))
