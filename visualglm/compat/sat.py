"""Upstream's sat-style interface: the classes and functions of its repository, and those of sat that its
scripts call.

    model, args = VisualGLMModel.from_pretrained("visualglm-6b", args=argparse.Namespace(fp16=True, skip_init=True))
    model.add_mixin("auto-regressive", CachedAutoregressiveMixin())
    response, history, cache_image = chat(path, model, tokenizer, "描述这张图片。", history=[])

In `from model import ...`, `from finetune_visualglm import ...` and `from sat... import ...` the module becomes this
one; nothing else changes. Models are this package's own with sat's methods; answers take the road of all answers.
Sources: upstream's `model/*.py`, `finetune_visualglm.py`; sat 0.4.12 `model/base_model.py`. Knows nothing about files.
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

from .. import auto  # noqa: F401  registers the tokenizer, which upstream's scripts open through AutoTokenizer
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
    """sat's name for "keep keys and values while generating", which every model here does by itself."""


class VisualGLMModel(VisualGLMForConditionalGeneration):
    """The model under sat's name, with sat's `from_pretrained`."""

    @property
    def image_length(self) -> int:
        """Slots of one picture."""
        return self.config.image_length

    def get_mixin(self, name: str) -> Any:
        """The mixin of that name; `eva` and `chatglm-final`, which are parts of the model itself here, by their names.

        Raises:
            UsageError: there is none.
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
        """The model and its arguments.

        Args:
            name: a folder of any layout, or the name of one in `home_path` (else `SAT_HOME`, else ~/.sat_models).
            args: `fp16`, `bf16` (neither: float32) and `device` are read; the rest comes back as it is.
            overwrite_args: fields of the returned arguments.
            kwargs: more arguments of `from_pretrained`; what sat alone has (`url`, `build_only`, ...) is refused.

        Raises:
            CheckpointError: there is no such folder, or it is no complete checkpoint.
            UsageError: an argument that only sat has.
        """
        folder, given, options = _opening(name, args, home_path, kwargs)
        model = cls._opened(folder, given, options)
        return model, _arguments(model, given, overwrite_args)

    @classmethod
    def _opened(cls, folder: Path, given: argparse.Namespace, options: dict[str, Any]) -> Any:
        return load_model(cls, folder, **options).eval()


class FineTuneVisualGLMModel(VisualGLMModel):
    """A fine-tuned folder as base and adapter; or a base with a new adapter where `args` asks for one.

    `get_mixin("lora").merge_lora()` puts LoRA into the weights; `get_mixin("ptuning")` is the prefix. In
    `from_pretrained`, `args.use_lora` (`lora_rank`, `layer_range`) and `args.use_ptuning` (`pre_seq_len`) put a new
    adapter on a base that has none; LoRA without the optional package peft is a `UsageError`.
    """

    @classmethod
    def _opened(cls, folder: Path, given: argparse.Namespace, options: dict[str, Any]) -> Any:
        stored = open_checkpoint(folder, merge=False)
        model = load_model(cls, folder, merge_lora=False, **options).eval()
        if stored.low_rank:
            model.add_mixin("lora", LoraMixin.stored(model, stored.low_rank))
        elif getattr(given, "use_lora", False):
            model.add_mixin("lora", LoraMixin.new(model, given.lora_rank, getattr(given, "layer_range", None)))
        if getattr(given, "use_ptuning", False) and not model.config.prefix_length:
            model.config.prefix_length = given.pre_seq_len
            model.add_mixin("ptuning", PTuningV2Mixin(model.config).to(model.device, model.dtype))
        return model


class AutoModel:
    """sat's `AutoModel`: the class that fits the folder."""

    @staticmethod
    def from_pretrained(
        name: str | Path, args: argparse.Namespace | None = None, **kwargs: Any
    ) -> tuple[Any, argparse.Namespace]:
        """`FineTuneVisualGLMModel` for a folder with LoRA or a prefix, `VisualGLMModel` for any other.

        Raises:
            CheckpointError: there is no such folder, or it is no complete checkpoint.
        """
        stored = open_checkpoint(_folder(name, kwargs.get("home_path")), merge=False)
        tuned = stored.low_rank or stored.config.prefix_length
        return (FineTuneVisualGLMModel if tuned else VisualGLMModel).from_pretrained(name, args, **kwargs)


def _opening(
    name: str | Path, args: argparse.Namespace | None, home_path: str | Path | None, kwargs: dict[str, Any]
) -> tuple[Path, argparse.Namespace, dict[str, Any]]:
    """The folder, the arguments as given, and those of `load_model`."""
    sats_own = sorted({"url", "prefix", "build_only", "use_node_group"} & set(kwargs))
    if sats_own:
        raise UsageError(f"{', '.join(sats_own)}: sat's own, and without a meaning here: leave it out.")
    given = argparse.Namespace() if args is None else args
    folder = _folder(name, home_path)
    step = kwargs.pop("specific_iteration", None)
    options = {"dtype": _dtype(given), "device_map": _device(given), **kwargs}
    return folder if step is None else folder / str(step), given, options


def _folder(name: str | Path, home_path: str | Path | None) -> Path:
    """The folder itself if it exists, else that of the name in sat's home."""
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


def _arguments(model: Any, given: argparse.Namespace, overwrite: dict[str, Any] | None) -> argparse.Namespace:
    """What was given, with the checkpoint's configuration and `overwrite` on top, as sat updates its arguments."""
    known = {**vars(given), **sat_arguments(model.config), **(overwrite or {})}
    return argparse.Namespace(**{"device": str(model.device), **known})


def quantize(model: Any, weight_bit_width: int) -> Any:
    """sat's `quantize(model, 8 | 4)`, for the model or its `transformer`: the language model's linears, in place.

    sat quantizes the picture's side and the head with a whole model; here they stay as they are.

    Raises:
        QuantizationError: other bits, or adapters are laid on the linears: merge or quantize first.
        UsageError: it is quantized in other bits already.
    """
    return quantize_model(model, weight_bit_width)


def get_infer_setting(
    gpu_device: int = 0, quant: int | None = None, *, name: str | Path = "visualglm-6b", tokenizer: str | None = None
) -> tuple[Any, Any]:
    """The model and the tokenizer that upstream's web page and API begin with.

    Args:
        gpu_device: the only CUDA device that this process will see.
        quant: 8 or 4.
        name: another folder than SAT_HOME's visualglm-6b.
        tokenizer: where the vocabulary is; by default beside the weights, else upstream's THUDM/chatglm-6b.

    Raises:
        CheckpointError: there is no such folder, or it is no complete checkpoint.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu_device)
    model, _ = AutoModel.from_pretrained(name, argparse.Namespace(fp16=True, skip_init=True))
    model.add_mixin("auto-regressive", CachedAutoregressiveMixin())
    if quant is not None:
        model = quantize(model, quant)
    beside = local_folder(name)
    found = tokenizer or (beside if (beside / VOCABULARY_FILE).is_file() else TOKENIZER)
    return model, AutoTokenizer.from_pretrained(found, trust_remote_code=True)


def is_chinese(text: str) -> re.Match[str] | None:
    """Whether there is a Chinese character in the text; upstream's demos choose 问/答 or Q/A by it."""
    return CHINESE.search(text)


def generate_input(
    input_text: str,
    input_image_prompt: Any,
    history: Iterable[tuple[str, str]] = (),
    input_para: dict[str, Any] | None = None,
    image_is_encoded: bool = True,
) -> dict[str, Any]:
    """Upstream's request: the picture (base64, unless `image_is_encoded` is False) opened, the rest as it came.

    Raises:
        ImageError: the base64 is broken, or no picture.
    """
    image = _decoded(input_image_prompt) if image_is_encoded else input_image_prompt
    return {"input_query": input_text, "input_image": image, "history": list(history), "gen_kwargs": input_para}


def _decoded(encoded: str | bytes) -> Image.Image:
    try:
        content = base64.b64decode(encoded)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the base64 of the picture is broken ({error}): encode the whole file again.") from error
    return open_image(io.BytesIO(content))


def save_checkpoint(iteration: int, model: Any, optimizer: Any, lr_scheduler: Any, args: argparse.Namespace) -> None:
    """sat's: writes the model as a sat folder `args.save` with the step `iteration`; only the model is stored.

    Raises:
        UsageError: LoRA is not merged yet, the model is in 8 or 4 bits, or the folder cannot be written.
    """
    if "lora" in model.mixins and not model.get_mixin("lora").is_merged:
        raise UsageError("LoRA is not in the weights yet: call model.get_mixin('lora').merge_lora() first.")
    if optimizer is not None or lr_scheduler is not None:
        raise UsageError("save_checkpoint stores the model alone: give None for optimizer and lr_scheduler.")
    save_sat(model, args.save, str(iteration))
