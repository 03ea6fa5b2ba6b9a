"""Images and text, or chat messages, become what the model takes; what it says becomes text.

In: `text`, `images`, messages. Out: `input_ids` and `attention_mask` [rows, T], left padded, and `pixel_values`
[images, 3, H, W], row by row. It joins images.py, chat_messages.py, prompt.py and the tokenizer for transformers'
`AutoProcessor`, `apply_chat_template` and `pipeline`. Knows nothing about models.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import BatchFeature, ProcessorMixin
from transformers.utils import to_py_obj

from ..errors import PromptError
from ..files.config_json import check_files
from ..network.configuration import VisualGLMConfig
from .chat_messages import CHAT_TEMPLATE, IMAGE_PLACEHOLDER, messages_to_turns
from .images import VisualGLMImageProcessor
from .processor_config import hub_arguments, image_settings, slots
from .prompt import (
    MARKS,
    Language,
    Prompt,
    Turn,
    build_prompt,
    build_training_row,
    cut_at_images,
    encode_around_images,
    marks_of,
    write_turns,
)
from .tokenizer import ChatGLMTokenizer, process_response

logger = logging.getLogger(__name__)

ANSWER_MARKS = tuple(answer for _, answer in MARKS.values())
FILES = ("processor_config.json", "preprocessor_config.json", "chat_template.json")
PADDING = ("padding", "max_length", "pad_to_multiple_of", "padding_side")


class VisualGLMProcessor(ProcessorMixin):
    """Images, text and messages to model inputs, and ids back to answers.

    `image_length` slots hold `image_token_id` for each image; both come from the model's configuration
    (`from_pretrained`, `for_config`). Unlike upstream, nothing that a user writes makes structure here: `<sop>`,
    `[gMASK]`, `<eop>` and `<img>path</img>` in a message or a text are plain text, and open no file.
    """

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
        """The processor of a model: its image size and slots, with a tokenizer or a vocabulary file."""
        if not isinstance(tokenizer, ChatGLMTokenizer):
            tokenizer = ChatGLMTokenizer(vocab_file=str(tokenizer))
        images = VisualGLMImageProcessor.for_config(config)
        return cls(images, tokenizer, config.image_length, int(config.image_token_id or 0))

    # loading: what a folder does not say, its model's configuration does

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        """What `save_pretrained` wrote, completed from the model's `config.json` (or sat's `model_config.json`)."""
        check_files(pretrained_model_name_or_path, FILES, kwargs.get("subfolder") or "")
        stored, unused = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        return {**slots(pretrained_model_name_or_path, hub_arguments(kwargs)), **stored}, unused

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        hub = hub_arguments(kwargs)
        tokenizer = ChatGLMTokenizer.from_pretrained(pretrained_model_name_or_path, **hub)
        stored = (processor_dict or {}).get("image_processor") or image_settings(pretrained_model_name_or_path, hub)
        return [VisualGLMImageProcessor.from_dict(stored), tokenizer]

    # images and text to ids

    @property
    def model_input_names(self) -> list[str]:
        """What a call returns at most."""
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: None = None,
        audio: None = None,
        *,
        language: Language = "auto",
        add_special_tokens: bool = True,
        truncation: bool | str | None = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Images, text or both.

        A text is a prompt (`apply_chat_template(tokenize=False)` writes them) with one `<img></img>` for each of its
        images. A text with images but without any `<img></img>` has them put in front, and where it does not end
        in 答： or A: it is a question and becomes upstream's single turn. Text without images is taken as it is.
        `[gMASK] <sop>` is added. Of several texts, each takes its images from a list per text, or in order from a
        flat list. Text is never cut, so `truncation` is refused.

        Raises `PromptError` when images and `<img></img>` do not match, `ImageError` for a image that cannot be
        opened.
        """
        if videos is not None or audio is not None:
            raise PromptError("VisualGLM neither watches nor listens: give text, images, or both.")
        if text is None and images is None:
            raise PromptError("There is nothing to process: give text, images, or both.")
        if truncation:
            raise PromptError("A prompt is never cut in the middle: use apply_chat_template(max_tokens=...) instead.")
        padding = {key: kwargs.pop(key) for key in PADDING if key in kwargs}
        data: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            shares = _shares(images, texts)
            rows = [self._encode(*pair, language) for pair in zip(texts, shares, strict=True)]
            data = self._pad(rows if add_special_tokens else [row[:-2] for row in rows], return_tensors, padding)
        return self._with_images(data, images, return_tensors, kwargs)

    def _encode(self, text: str, images: int, language: Language) -> list[int]:
        """One text, with the slots of its images."""
        marked = text.count(IMAGE_PLACEHOLDER)
        if marked and images and marked != images:
            raise PromptError(
                f"The text has {marked} {IMAGE_PLACEHOLDER} and there are {images} images: make them equal, or use "
                "apply_chat_template, which does."
            )
        if not images:
            texts = [text]
        elif marked or text.endswith(ANSWER_MARKS):
            texts = cut_at_images(text if marked else IMAGE_PLACEHOLDER * images + text)
        else:
            texts = write_turns([Turn(text, None, images)], marks_of(language, text))
        return encode_around_images(self.tokenizer, texts, [self.image_token_id] * self.image_length)

    def _pad(self, rows: list[list[int]], return_tensors: Any, padding: Mapping[str, Any]) -> dict[str, Any]:
        """`input_ids` and `attention_mask`; the model derives positions itself."""
        data = self.tokenizer.pad({"input_ids": rows}, return_tensors=return_tensors, **{"padding": True, **padding})
        data.setdefault("attention_mask", [[1] * len(row) for row in rows])
        return {key: data[key] for key in ("input_ids", "attention_mask")}

    def _with_images(self, data: dict[str, Any], images: Any, return_tensors: Any, options: Any) -> BatchFeature:
        if _count(images):
            data |= self.image_processor(images, return_tensors=return_tensors, **options)
        return BatchFeature(data)

    # turns to ids

    def build_prompt(
        self,
        turns: Sequence[Turn],
        language: Language = "auto",
        max_tokens: int | None = None,
        continue_answer: bool = False,
    ) -> Prompt:
        """The ids that ask the last of `turns`; arguments and errors are those of `prompt.build_prompt`."""
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
        """`input_ids` [T] and `labels` [T] of an answered chat; errors are those of `prompt.build_training_row`."""
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
        """Messages, or a batch of them, to a prompt: text, or with `tokenize=True` what the model takes.

        Tokenized, it is `build_prompt`: `language` chooses 问/答 or Q/A, more than `max_tokens` lose the oldest
        turns (a warning says how many), and the images of the messages are opened (URLs are refused).
        `continue_final_message=True` lets the model go on with the assistant's last message. With `return_dict=True` a
        `BatchFeature` as from a call, else `input_ids` alone. An open question always gets its 答：, so
        `add_generation_prompt` changes nothing. Another Jinja template than ours takes transformers' own road.

        Raises `PromptError` for messages that are no dialogue, or do not fit, `ImageError` for a image.
        """
        batch = _batch(conversation)
        ours = (chat_template or self.chat_template) == CHAT_TEMPLATE
        if tokenize and ours:
            return self._tokenize_chat(batch, language, max_tokens, **kwargs)
        if ours:  # Jinja's own complaints are no sentences
            for messages in batch:
                messages_to_turns(messages)
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
        return_tensors: Any = None,
        continue_final_message: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        sanitize_control_tokens: bool = True,
        **kwargs: Any,
    ) -> Any:
        options = {key: value for key, value in {**(processor_kwargs or {}), **kwargs}.items() if value is not None}
        if "tools" in options or "documents" in options:
            raise PromptError("VisualGLM was not trained with tools or documents: leave them out.")
        rows, sources = [], []
        for messages in batch:
            turns, images = messages_to_turns(messages)
            prompt = self.build_prompt(turns, language, max_tokens, continue_final_message)
            if prompt.dropped_turns:
                logger.warning("The dialogue is too long: its %d oldest turns were left out.", prompt.dropped_turns)
            rows.append(prompt.input_ids)
            sources += images
        if any(source is None for source in sources):
            raise PromptError("A image of the messages has no source: give it as image, path, url or base64.")
        tensors = None if return_tensors == "auto" else return_tensors
        data = self._pad(rows, tensors, {key: options.pop(key) for key in PADDING if key in options})
        return self._with_images(data, sources, tensors, options) if return_dict else data["input_ids"]

    # ids to answers

    def decode(self, token_ids: Any, **kwargs: Any) -> Any:
        """The answer in ids, or a list of them for a batch, as upstream shows it (`process_response`).

        Of what `generate` returns, the prompt is left out: an answer begins after `[gMASK] <sop>`. Answers alone may be
        given as well. Arguments are those of `ChatGLMTokenizer.decode`.
        """
        ids = to_py_obj(token_ids)
        if isinstance(ids, int):
            ids = [ids]
        if ids and isinstance(ids[0], (list, tuple)):
            return [self.decode(row, **kwargs) for row in ids]
        return process_response(self.tokenizer.decode(self._answer(ids), **kwargs))

    def batch_decode(self, token_ids: Any, **kwargs: Any) -> list[str]:
        """`decode` of several answers."""
        return [self.decode(row, **kwargs) for row in token_ids]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """`batch_decode`, under the name that transformers' pipeline calls."""
        return self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    def _answer(self, ids: list[int]) -> list[int]:
        opening = [self.tokenizer.gmask_token_id, self.tokenizer.bos_token_id]
        starts = (place + 2 for place in range(len(ids) - 1) if ids[place : place + 2] == opening)
        return ids[next(starts, 0) :]


def _batch(conversation: Sequence[Any]) -> Sequence[Any]:
    """One conversation is a batch of one."""
    if not conversation:
        raise PromptError("The conversation has no messages: ask something.")
    return conversation if isinstance(conversation[0], (list, tuple)) else [conversation]


def _count(images: Any) -> int:
    """How many images there are, however they are nested."""
    if images is None:
        return 0
    if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) > 3:
        return sum(_count(image) for image in images)
    return 1


def _shares(images: Any, texts: Sequence[str]) -> list[int]:
    """How many of the images belong to each text."""
    nested = isinstance(images, (list, tuple)) and any(isinstance(part, (list, tuple)) for part in images)
    if nested and len(images) == len(texts):
        return [_count(part) for part in images]
    total = _count(images)
    if len(texts) == 1 or not total:
        return [total] * len(texts)
    marked = [text.count(IMAGE_PLACEHOLDER) for text in texts]
    if sum(marked) == total:
        return marked
    if not sum(marked) and total == len(texts):
        return [1] * len(texts)
    raise PromptError(
        f"{total} images cannot be shared among {len(texts)} texts with {sum(marked)} {IMAGE_PLACEHOLDER}: give a "
        "list of images for each text."
    )
