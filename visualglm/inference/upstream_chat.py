"""Upstream's `model.chat` and `model.stream_chat`, with its signatures and return values.

In: a tokenizer, an image and a question. Out: `(response, history)`. They use the same functions as `Conversation`:
preprocessing/prompt.py builds the ids, streaming_reply.py the answer. Source: `chat`, `stream_chat` and `process_image`
of upstream's `modeling_chatglm.py`. Different on purpose: a question is never searched for `<img>` tags, so no text
opens a file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import PromptError, UsageError
from ..preprocessing.chinese_token_filter import forbid_chinese_tokens
from ..preprocessing.images import ImageSource
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.prompt import Language, Turn, describe_dropped_turns
from ..preprocessing.tokenizer import ChatGLMTokenizer
from .image_features import ImageFeatures
from .start_reply import start_reply
from .streaming_reply import StreamingReply


class History(list[tuple[str, str]]):
    """Upstream's history, a list of (question, answer), that also remembers the image.

    A plain list made of it (`list(history)`, a slice) is upstream's, without an image.
    """

    shown: tuple[str, int, bool, int] | None = None
    image: ImageFeatures | None = None

    @property
    def image_embeds(self) -> Tensor | None:
        """Embeddings of the image for the last answer."""
        return None if self.image is None else self.image.image_embeds


class UpstreamChat:
    """Upstream's methods, mixed into the model."""

    adapter_at_work: str | None = None
    """Name of the active adapter (adapters/manager.py), so that cached image embeddings can be checked."""

    def chat(
        self,
        tokenizer: ChatGLMTokenizer,
        image_path: ImageSource | None,
        query: str | None = None,
        history: Iterable[tuple[str, str]] | None = None,
        max_length: int | None = None,
        min_length: int | None = None,
        do_sample: bool | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        repetition_penalty: float | None = None,
        logits_processor: Any = None,
        **kwargs: Any,
    ) -> tuple[str, History]:
        """Answer `query` about the image; return the answer and the history with this turn.

        `chat(tokenizer, question, history=history)` without an image continues with the image of that history.
        Arguments that are None come from the checkpoint's generation config (upstream's files: max_length 1024,
        min_length 100, top_p 0.4, top_k 100, temperature 0.8, repetition_penalty 1.2, do_sample). `kwargs` are more
        sampling arguments of transformers, and: `preset` ("hf", "sat", "sat_cli", "greedy"), `language` ("zh" as
        upstream, or "en": Q/A and no Chinese character in the answer), `upstream_images` (ignore EXIF and drop
        transparency as upstream did), `seed`.

        Raises:
            ImageError: the image cannot be opened.
            PromptError: the question alone does not fit into the model.
        """
        answered = self.stream_chat(
            tokenizer,
            image_path,
            query,
            history,
            max_length,
            min_length,
            do_sample,
            top_p,
            top_k,
            temperature,
            repetition_penalty,
            logits_processor,
            **kwargs,
        )
        *_, last = answered
        return last

    def stream_chat(
        self,
        tokenizer: ChatGLMTokenizer,
        image_path: ImageSource | None,
        query: str | None = None,
        history: Iterable[tuple[str, str]] | None = None,
        max_length: int | None = None,
        min_length: int | None = None,
        do_sample: bool | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        repetition_penalty: float | None = None,
        logits_processor: Any = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, History]]:
        """Yield the answer so far, with its history, as it grows; otherwise as `chat`. Closing the iterator stops it.

        The last pair is what `chat` returns (upstream's stream lacks the final token when max_length ends it).
        """
        sampled = {
            "max_length": max_length,
            "min_length": min_length,
            "do_sample": do_sample,
            "top_p": top_p,
            "top_k": top_k,
            "temperature": temperature,
            "repetition_penalty": repetition_penalty,
            "logits_processor": logits_processor,
        }
        reply, new_turn = self._start_chat(tokenizer, image_path, query, history, **sampled, **kwargs)
        with reply:
            for _ in reply:
                yield reply.text, new_turn(reply.text)
            if not reply.text:
                yield "", new_turn("")

    def _start_chat(
        self,
        tokenizer: ChatGLMTokenizer,
        image_path: ImageSource | None,
        query: str | None,
        history: Iterable[tuple[str, str]] | None,
        language: Language = "zh",
        upstream_images: bool = False,
        **arguments: Any,
    ) -> tuple[StreamingReply, Any]:
        if query is None:
            image_path, query = None, _question(image_path)
        past = history if isinstance(history, History) else _checked_history(history or [])
        shown, image = past.shown, past.image
        model: Any = self  # the network that this class is mixed into
        processor = VisualGLMProcessor.for_config(model.config, tokenizer)
        if image_path is not None and not (isinstance(image_path, str) and not image_path.strip()):
            shown = _identity(image_path, upstream_images, model.config.vision.image_size)
            if shown is None or shown != past.shown:
                image = ImageFeatures(processor.image_processor.read(image_path, upstream_images))
        image_embeds = None if image is None else image.embeds(model)
        images = 0 if image_embeds is None else 1
        questions = [*((question, answer) for question, answer in past), (query, None)]
        turns = [Turn(q, a, images if index == 0 else 0) for index, (q, a) in enumerate(questions)]
        arguments = forbid_chinese_tokens(tokenizer, language, arguments)
        reply, dropped = start_reply(model, processor, turns, image_embeds, language, **arguments)
        if dropped:
            warnings.warn(describe_dropped_turns(dropped), stacklevel=3)

        def with_answer(response: str) -> History:
            extended = History([*past, (query, response)])
            extended.shown, extended.image = shown, image
            return extended

        return reply, with_answer


def _identity(image: ImageSource, upstream: bool, size: int) -> tuple[str, int, bool, int] | None:
    """Return what identifies a file's content, so that it is not encoded twice; None for anything but a file."""
    if not isinstance(image, (str, Path)) or not Path(image).is_file():
        return None
    return str(image), Path(image).stat().st_mtime_ns, upstream, size


def _checked_history(history: Iterable[Any]) -> History:
    turns = list(history)
    for turn in turns:
        if not (isinstance(turn, (tuple, list)) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise PromptError(f"history holds {turn!r:.60}. Give a list of (question, answer) pairs of text.")
    return History((question, answer) for question, answer in turns)


def _question(argument: Any) -> str:
    """Return the question of `chat(tokenizer, question)`; raise `UsageError` for an image without a question."""
    if not isinstance(argument, str):
        raise UsageError("chat got an image but no question. Call chat(tokenizer, image, question).")
    return argument
