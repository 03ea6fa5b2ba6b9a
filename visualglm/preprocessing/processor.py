"""Turn images, text and chat messages into model inputs.

In: `text`, `images`, messages. Out: `input_ids` and `attention_mask` [rows, T], left padded, and `pixel_values`
[images, 3, H, W], row by row. It joins images.py, chat_messages.py, prompt.py and the tokenizer for transformers'
`AutoProcessor`, `apply_chat_template` and `pipeline`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import BatchFeature, ProcessorMixin
from transformers.utils import to_py_obj

from ..errors import PromptError
from ..files.json_object import check_files
from ..network.configuration import VisualGLMConfig
from .chat_messages import (
    CHAT_TEMPLATE,
    IMAGE_PLACEHOLDER,
    check_messages,
    messages_to_turns,
    refuse_assistant_mask,
)
from .images import VisualGLMImageProcessor
from .processor_arguments import (
    PADDING_ARGUMENTS,
    VisualGLMProcessorKwargs,
    sort_call_arguments,
    sort_loading_arguments,
)
from .processor_config import complete_settings, hub_arguments
from .prompt import (
    MARKS,
    Language,
    Prompt,
    Turn,
    build_chat_row,
    build_prompt,
    build_training_row,
    check_question,
    describe_dropped_turns,
    encode_around_images,
    marks_of,
    split_at_images,
    write_turns,
)
from .tokenizer import ChatGLMTokenizer, process_response

logger = logging.getLogger(__name__)

CHAT_ARGUMENTS = (
    *("tools", "documents", "add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask"),
    *("return_dict", "sanitize_control_tokens"),
)
"""Arguments of transformers' `apply_chat_template` that a call does not take."""
ANSWER_MARKS = tuple(answer for _, answer in MARKS.values())
FILES = ("processor_config.json", "preprocessor_config.json", "chat_template.json")


class VisualGLMProcessor(ProcessorMixin):
    """Processor of images, text and messages; decodes ids to answers.

    Each image takes `image_length` placeholder tokens `image_token_id`; both come from the model's configuration
    (`from_pretrained`, `for_config`). Unlike upstream, text of a user is never structure: `<sop>`, `[gMASK]`, `<eop>`
    and `<img>path</img>` in a message or a text are plain text, and open no file.
    """

    valid_processor_kwargs = VisualGLMProcessorKwargs

    def __init__(
        self,
        image_processor: VisualGLMImageProcessor,
        tokenizer: ChatGLMTokenizer,
        image_length: int = 32,
        image_token_id: int = 130527,
        chat_template: str | None = None,
    ) -> None:
        self.image_length = image_length
        self.image_token_id = image_token_id
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def for_config(cls, config: VisualGLMConfig, tokenizer: ChatGLMTokenizer | str | Path) -> VisualGLMProcessor:
        """Build a model's processor from its configuration and a tokenizer or vocabulary file."""
        if not isinstance(tokenizer, ChatGLMTokenizer):
            tokenizer = ChatGLMTokenizer(vocab_file=str(tokenizer))
        images = VisualGLMImageProcessor.for_config(config)
        return cls(images, tokenizer, config.image_length, int(config.image_token_id or 0))

    # loading: the model's configuration supplies what the folder's processor files lack

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        """Read the saved settings, completed from the model's `config.json` or sat's `model_config.json`."""
        check_files(pretrained_model_name_or_path, FILES, kwargs.get("subfolder") or "")
        stored, unused = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        return complete_settings(stored, pretrained_model_name_or_path, hub_arguments(kwargs)), unused

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any], **kwargs: Any
    ) -> list[Any]:
        hub = hub_arguments(kwargs)
        own = inspect.signature(cls.__init__).parameters
        for_tokenizer, for_images = sort_loading_arguments(
            kwargs, VisualGLMImageProcessor.valid_kwargs.__annotations__, own
        )
        tokenizer = kwargs.get("tokenizer") or ChatGLMTokenizer.from_pretrained(
            pretrained_model_name_or_path, **hub, **for_tokenizer
        )
        return [VisualGLMImageProcessor.from_dict(processor_dict["image_processor"], **for_images), tokenizer]

    # images and text to ids

    @property
    def model_input_names(self) -> list[str]:
        """Names of the values that a call returns."""
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Process images, text or both.

        A text is a prompt (`apply_chat_template(tokenize=False)` writes one) with one `<img></img>` for each of its
        images. If a text has images but no `<img></img>`, they precede it; unless it ends in 答： or A:, it is a
        question and becomes upstream's single turn. Text without images remains as it is. `[gMASK] <sop>` is added.
        Images are given per text, or as a flat list in order.

        Keyword arguments are transformers' (`padding`, `return_tensors`, `do_normalize`..., or grouped in
        `text_kwargs`, `images_kwargs`, `common_kwargs`), and `language`: `auto`, `zh` or `en`.

        Raises:
            PromptError: images and `<img></img>` do not match, a question is blank, or truncation is requested.
            UsageError: an argument is unknown.
            ImageError: an image cannot be opened.
        """
        if kwargs.pop("videos", None) is not None or kwargs.pop("audio", None) is not None:
            raise PromptError("VisualGLM takes no video or audio. Give text, images, or both.")
        if text is None and images is None:
            raise PromptError("There is nothing to process. Give text, images, or both.")
        options, image_options = sort_call_arguments(self, kwargs)
        data: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            counts = _images_per_text(images, texts)
            rows = [self._encode(*pair, options["language"]) for pair in zip(texts, counts, strict=True)]
            data = self._pad(rows if options["add_special_tokens"] else [row[:-2] for row in rows], options)
        return self._with_images(data, images, image_options)

    def _encode(self, text: str, images: int, language: Language) -> list[int]:
        """Encode one text with the placeholder tokens of its images."""
        placeholders = text.count(IMAGE_PLACEHOLDER)
        if placeholders and images and placeholders != images:
            raise PromptError(
                f"The text has {placeholders} {IMAGE_PLACEHOLDER} and there are {images} images. Make them "
                "equal, or use apply_chat_template, which does."
            )
        if not images:
            texts = [text]
        elif placeholders or text.endswith(ANSWER_MARKS):
            texts = split_at_images(text if placeholders else IMAGE_PLACEHOLDER * images + text)
        else:
            check_question(text)
            texts = write_turns([Turn(text, None, images)], marks_of(language, text))
        return encode_around_images(self.tokenizer, texts, [self.image_token_id] * self.image_length)

    def _pad(self, rows: list[list[int]], options: Mapping[str, Any]) -> dict[str, Any]:
        """Pad to `input_ids` and `attention_mask`; the model computes positions."""
        padding = {key: options[key] for key in PADDING_ARGUMENTS if key in options}
        data = self.tokenizer.pad({"input_ids": rows}, return_tensors=options.get("return_tensors"), **padding)
        if options.get("return_attention_mask") is False:
            return {"input_ids": data["input_ids"]}
        data.setdefault("attention_mask", [[1] * len(row) for row in rows])
        return {key: data[key] for key in ("input_ids", "attention_mask")}

    def _with_images(self, data: dict[str, Any], images: Any, options: Mapping[str, Any]) -> BatchFeature:
        if _count_images(images):
            data |= self.image_processor(images, **options)
        return BatchFeature(data)

    # turns to ids

    def build_prompt(
        self,
        turns: Sequence[Turn],
        language: Language = "auto",
        max_tokens: int | None = None,
        continue_answer: bool = False,
    ) -> Prompt:
        """Build the ids that ask the last of `turns`; arguments and errors are those of `prompt.build_prompt`."""
        return build_prompt(
            self.tokenizer,
            turns,
            language=language,
            image_token_id=self.image_token_id,
            image_length=self.image_length,
            max_tokens=max_tokens,
            continue_answer=continue_answer,
        )

    def build_training_row(self, turns: Sequence[Turn], language: Language = "auto") -> tuple[list[int], list[int]]:
        """Build `input_ids` [T] and `labels` [T] of an answered chat; see `prompt.build_training_row`."""
        return build_training_row(
            self.tokenizer,
            turns,
            language=language,
            image_token_id=self.image_token_id,
            image_length=self.image_length,
        )

    # messages to ids

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        language: Language = "auto",
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Build the prompt of a conversation, or of a batch of them: text, or with `tokenize=True` model inputs.

        `language` selects 问/答 or Q/A. If the ids exceed `max_tokens`, the oldest turns are dropped and logged. The
        images of the messages are opened; URLs are refused. `continue_final_message=True` continues the assistant's
        last message. Without it, a conversation that ends with an answer becomes a training row
        (`build_training_row`). `return_assistant_tokens_mask=True` adds `assistant_masks` [rows, T], 1 where that row
        has a label: GLM learns the last answer only, as it reads all before it in both directions. With
        `return_dict=True` the result is that of a call, else `input_ids`. A question always gets its 答：, whatever
        `add_generation_prompt` is. transformers renders templates other than ours.

        Raises:
            PromptError: the messages are not a dialogue, the question is blank, or it does not fit.
            UsageError: an argument is unknown, or `return_assistant_tokens_mask` is given with another template.
            ImageError: an image cannot be opened.
        """
        batch = _as_batch(conversation)
        ours = (chat_template or self.chat_template) == CHAT_TEMPLATE
        if tokenize and ours:
            return self._tokenize_chat(batch, language, max_tokens, **kwargs)
        if ours:  # Jinja's errors are not sentences
            self._sort_chat_arguments(**kwargs)
            for messages in batch:
                check_messages(messages)
        else:
            refuse_assistant_mask(kwargs)
        if max_tokens is not None or kwargs.get("continue_final_message"):
            raise PromptError("max_tokens and continue_final_message need tokenize=True: text has no place for them.")
        if language != "auto":  # what our template does by itself, and no other template knows
            kwargs["language"] = language
        return super().apply_chat_template(conversation, chat_template, tokenize=tokenize, **kwargs)

    def _tokenize_chat(
        self,
        batch: Sequence[Any],
        language: Language,
        max_tokens: int | None,
        return_dict: bool = False,
        return_assistant_tokens_mask: bool = False,
        continue_final_message: bool = False,
        add_generation_prompt: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        if return_assistant_tokens_mask and continue_final_message:
            raise PromptError("A continued answer is not a training row. Remove return_assistant_tokens_mask.")
        options, image_options = self._sort_chat_arguments(**kwargs)
        rows, masks, sources = [], [], []
        for messages in batch:
            turns, images = messages_to_turns(messages)
            prompt, mask = build_chat_row(
                self.tokenizer,
                turns,
                language=language,
                image_token_id=self.image_token_id,
                image_length=self.image_length,
                max_tokens=max_tokens,
                continue_answer=continue_final_message,
                add_generation_prompt=add_generation_prompt,
            )
            if prompt.dropped_turns:
                logger.warning(describe_dropped_turns(prompt.dropped_turns))
            rows.append(prompt.input_ids)
            masks.append(mask)
            sources += images
        if any(source is None for source in sources):
            raise PromptError("An image of the messages has no source. Give it as image, path, url or base64.")
        data = self._pad(rows, options)
        if not return_dict:
            return data["input_ids"]
        if return_assistant_tokens_mask:
            padded = self.tokenizer.pad_masks(masks, data["input_ids"], options.get("padding_side"))
            data |= BatchFeature({"assistant_masks": padded}, tensor_type=options.get("return_tensors"))
        return self._with_images(data, sources, image_options)

    def _sort_chat_arguments(
        self, processor_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sort the arguments of `apply_chat_template` that are those of a call."""
        if kwargs.get("tools") or kwargs.get("documents"):
            raise PromptError("VisualGLM was not trained with tools or documents. Leave them out.")
        call = {
            **(processor_kwargs or {}),
            **{key: value for key, value in kwargs.items() if key not in CHAT_ARGUMENTS},
        }
        if call.get("return_tensors") == "auto":  # transformers' default of apply_chat_template
            del call["return_tensors"]
        return sort_call_arguments(self, call)

    # ids to answers

    def decode(self, token_ids: Any, **kwargs: Any) -> Any:
        """Decode an answer, or a batch of answers, as upstream shows it (`process_response`).

        Takes answers, or what `generate` returns: the prompt up to `[gMASK] <sop>` is removed. Arguments are those of
        `ChatGLMTokenizer.decode`.
        """
        ids = to_py_obj(token_ids)
        if isinstance(ids, int):
            ids = [ids]
        if ids and isinstance(ids[0], (list, tuple)):
            return [self.decode(row, **kwargs) for row in ids]
        return process_response(self.tokenizer.decode(self._cut_prompt(ids), **kwargs))

    def batch_decode(self, token_ids: Any, **kwargs: Any) -> list[str]:
        """Decode several answers."""
        return [self.decode(row, **kwargs) for row in token_ids]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Decode answers; transformers' pipelines call this name."""
        return self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    def _cut_prompt(self, ids: list[int]) -> list[int]:
        opening = [self.tokenizer.gmask_token_id, self.tokenizer.bos_token_id]
        starts = (index + 2 for index in range(len(ids) - 1) if ids[index : index + 2] == opening)
        return ids[next(starts, 0) :]


def _as_batch(conversation: Sequence[Any]) -> Sequence[Any]:
    """Wrap a single conversation in a batch; raise `PromptError` if it is empty."""
    if not conversation:
        raise PromptError("The conversation has no messages. Ask a question.")
    return conversation if isinstance(conversation[0], (list, tuple)) else [conversation]


def _count_images(images: Any) -> int:
    """Count images, however they are nested."""
    if images is None:
        return 0
    if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) > 3:
        return sum(_count_images(image) for image in images)
    return 1


def _images_per_text(images: Any, texts: Sequence[str]) -> list[int]:
    """Return how many of the images belong to each text."""
    nested = isinstance(images, (list, tuple)) and any(isinstance(part, (list, tuple)) for part in images)
    if nested and len(images) == len(texts):
        return [_count_images(part) for part in images]
    total = _count_images(images)
    if len(texts) == 1 or not total:
        return [total] * len(texts)
    placeholders = [text.count(IMAGE_PLACEHOLDER) for text in texts]
    if sum(placeholders) == total:
        return placeholders
    if not sum(placeholders) and total == len(texts):
        return [1] * len(texts)
    raise PromptError(
        f"{total} images cannot be assigned to {len(texts)} texts with {sum(placeholders)} {IMAGE_PLACEHOLDER}. Give a "
        "list of images for each text."
    )
