"""Check and sort the keyword arguments of `VisualGLMProcessor`.

In: what a caller passes to the processor or to `from_pretrained`. Out: arguments per component (text, images). An
unknown name is an error that gives the nearest known one. transformers' names for video and audio have no effect, as
generic code passes them to every processor.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, ProcessorMixin
from transformers.processing_utils import AudioKwargs, ImagesKwargs, ProcessingKwargs, TextKwargs, VideosKwargs
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import PaddingStrategy

from ..errors import PromptError, UsageError

TOKENIZER_ARGUMENTS = (
    *("padding_side", "truncation_side", "model_max_length", "clean_up_tokenization_spaces", "split_special_tokens"),
    *("do_lower_case", "remove_space", "num_image_tokens", "extra_special_tokens", "additional_special_tokens"),
    *("bos_token", "eos_token", "unk_token", "pad_token", "mask_token", "cls_token", "sep_token"),
)
"""Arguments of `from_pretrained` that are the tokenizer's."""
LOADING_ARGUMENTS = (
    *("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies"),
    *("trust_remote_code", "code_revision", "return_unused_kwargs", "use_fast", "use_auth_token", "backend"),
    *("torch_dtype", "dtype", "config"),
)
"""Arguments of `from_pretrained` that locate files or that transformers' pipelines pass to every class."""
USED_TEXT_ARGUMENTS = {
    *("language", "add_special_tokens", "padding", "max_length", "pad_to_multiple_of", "padding_side"),
    *("return_attention_mask", "return_tensors", "truncation", "verbose", "sanitize_control_tokens"),
}
PADDING_ARGUMENTS = ("padding", "max_length", "pad_to_multiple_of", "padding_side")
NO_TRUNCATION = (None, False, "do_not_truncate", TruncationStrategy.DO_NOT_TRUNCATE)


class VisualGLMTextKwargs(TextKwargs, total=False):  # type: ignore[call-arg]
    """transformers' text arguments, and the language of 问/答 or Q/A."""

    language: str | None


class VisualGLMProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Keyword arguments of a call to the processor."""

    text_kwargs: VisualGLMTextKwargs
    _defaults = {"text_kwargs": {"padding": True, "add_special_tokens": True, "language": "auto"}}


def sort_call_arguments(processor: ProcessorMixin, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments for text and those for images, by transformers' order of precedence.

    Raises:
        UsageError: a name is unknown or given twice, or a value is of the wrong kind or unsupported.
        PromptError: truncation is requested.
    """
    text_names = set(VisualGLMTextKwargs.__annotations__)
    image_names = set(ImagesKwargs.__annotations__) | set(processor.image_processor.valid_kwargs.__annotations__)
    other_names = {*VideosKwargs.__annotations__, *AudioKwargs.__annotations__, "load_audio_from_video"}
    known = text_names | image_names | other_names
    _check_names(given, {*known, *ProcessingKwargs.__annotations__, "common_kwargs"})
    for group, names in (
        ("text_kwargs", text_names),
        ("images_kwargs", image_names),
        ("common_kwargs", known),
    ):
        if not isinstance(given.get(group) or {}, Mapping):
            raise UsageError(f"{group} is {given[group]!r}. Give a dictionary of arguments.")
        _check_names(given.get(group) or {}, names)
    unused = other_names - text_names - image_names
    used = {key: value for key, value in given.items() if value is not None and key not in unused}
    try:
        merged = processor._merge_kwargs(
            VisualGLMProcessorKwargs, tokenizer_init_kwargs=processor.tokenizer.init_kwargs, **used
        )
        text = {key: value for key, value in merged["text_kwargs"].items() if key in text_names}
        validate_typed_dict(VisualGLMTextKwargs, text)
        if isinstance(text["padding"], str):
            PaddingStrategy(text["padding"])  # raises ValueError for an unknown strategy
    except (StrictDataclassError, ValueError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UsageError(f"An argument of the processor is invalid ({reason}). Correct or remove it.") from error
    _check_text_arguments(text)
    return text, {key: value for key, value in merged["images_kwargs"].items() if key in image_names}


def sort_loading_arguments(
    given: Mapping[str, Any], image_names: Iterable[str], own_names: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `from_pretrained` for the tokenizer and those for the image processor.

    Raises:
        UsageError: a name is unknown.
    """
    image_names = set(image_names)
    public = {key: value for key, value in given.items() if not key.startswith("_")}
    _check_names(public, {*image_names, *own_names, *TOKENIZER_ARGUMENTS, *LOADING_ARGUMENTS})
    return (
        {key: value for key, value in public.items() if key in TOKENIZER_ARGUMENTS},
        {key: value for key, value in public.items() if key in image_names},
    )


def _check_names(given: Iterable[str], known: set[str]) -> None:
    for name in given:
        if name not in known and name in vars(GenerationConfig()):
            raise UsageError(
                f"{name} is an argument of generate, not of the processor. A pipeline takes it in generate_kwargs."
            )
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)[0]
            raise UsageError(f"The processor has no argument {name!r}. Did you mean {nearest!r}?")


def _check_text_arguments(text: Mapping[str, Any]) -> None:
    if text.get("truncation") not in NO_TRUNCATION:
        raise PromptError("A prompt is never cut in the middle. Use apply_chat_template(max_tokens=...) instead.")
    for name, value in text.items():
        if value and name not in USED_TEXT_ARGUMENTS:
            raise UsageError(f"The processor does not support {name}. Remove it.")
