"""Generate an answer in a thread and hand out its text piece by piece; it can be stopped.

`StreamingReply` runs transformers' `generate` in a thread and yields its ids, decoded, to the caller's iteration.
`model.chat`, `Conversation` and the command line all use it.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from ..network.visualglm import VisualGLMNetwork
from ..preprocessing.tokenizer import ChatGLMTokenizer
from .generation_settings import GenerationSettings, start_decoder
from .stop_strings import StopFilter

FinishReason = Literal["stop", "length", "cancelled"]


def trim_after_eos(ids: list[int], eos: set[int]) -> list[int]:
    """Return the ids up to and including the first that ends an answer."""
    end = next((position for position, index in enumerate(ids) if index in eos), len(ids) - 1)
    return ids[: end + 1]


class _IdQueue(BaseStreamer):
    """Queue of ids from the generating thread to the reader; the first call has the prompt and is ignored."""

    def __init__(self, ids: queue.SimpleQueue[Any]) -> None:
        self.ids = ids
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self.prompt_seen:
            for index in value.flatten().tolist():
                self.ids.put(index)
        self.prompt_seen = True

    def end(self) -> None:
        """Do nothing: the thread reports its end, since that may be an error."""


class _Cancelled(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device, dtype=torch.bool)


_unread: weakref.WeakSet[StreamingReply] = weakref.WeakSet()
_unread_lock = threading.Lock()


def is_generating(model: object) -> bool:
    """Return whether an answer of this model is neither finished nor closed."""
    with _unread_lock:
        return any(reply.model is model and reply.finish_reason is None for reply in _unread)


class StreamingReply(Iterator[str]):
    """One answer being generated: iterate over the pieces of text; their concatenation is `text`.

    `close()` (or leaving the `with` block) stops the generation within one token. `finish_reason` is None until the
    end. An error in the generating thread is raised by the iteration.
    """

    def __init__(
        self,
        model: VisualGLMNetwork,
        tokenizer: ChatGLMTokenizer,
        input_ids: list[int],
        image_embeds: Tensor | None,
        settings: GenerationSettings,
    ) -> None:
        self.model = model
        self.prompt_tokens = len(input_ids)
        self.ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.text = ""
        """The answer so far, up to a stop string."""
        self._decoder = start_decoder(tokenizer, settings)
        self._stops = StopFilter(settings.stops)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._eos = settings.eos
        self._started = time.perf_counter()
        self._seconds: float | None = None
        prompt = torch.tensor([input_ids], device=model.device)
        arguments = {"image_embeds": image_embeds, **settings.arguments(len(input_ids))}
        self._thread = threading.Thread(target=self._generate, args=(model, prompt, arguments), daemon=True)
        with _unread_lock:
            _unread.add(self)
        self._thread.start()

    def _generate(self, model: VisualGLMNetwork, prompt: Tensor, arguments: dict[str, Any]) -> None:
        """Generate in the thread. Beam search cannot stream: its ids come all at once."""
        streams = (arguments["generation_config"].num_beams or 1) == 1
        try:
            output = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                stopping_criteria=StoppingCriteriaList([_Cancelled(self._cancelled)]),
                streamer=_IdQueue(self._queue) if streams else None,
                **arguments,
            )
            if not streams:
                for index in trim_after_eos(output[0, prompt.shape[1] :].tolist(), self._eos):
                    self._queue.put(index)
            self._queue.put(None)
        except BaseException as error:  # any error must reach the reader, which would wait forever otherwise
            self._queue.put(error)

    @property
    def seconds(self) -> float:
        """Wall time from the start to the end, or until now."""
        return self._seconds if self._seconds is not None else time.perf_counter() - self._started

    def __next__(self) -> str:
        while self.finish_reason is None:
            item = self._queue.get()
            if isinstance(item, BaseException):
                self.finish_reason = "cancelled"
                raise item
            piece = self._end() if item is None else self._accept(item)
            if self._stops.stopped and self.finish_reason is None:
                self.close()
                self.finish_reason = "stop"
            if piece:
                return piece
        raise StopIteration

    def _accept(self, index: int) -> str:
        if self._stops.stopped:  # generated before the thread saw the cancellation
            return ""
        self.ids.append(index)
        return "" if index in self._eos else self._show(self._decoder.push(index))

    def _show(self, piece: str, final: bool = False) -> str:
        shown = self._stops.feed(piece, final)
        self.text += shown
        return shown

    def _end(self) -> str:
        self._thread.join()
        self._seconds = time.perf_counter() - self._started
        ended = bool(self.ids) and self.ids[-1] in self._eos
        self.finish_reason = "stop" if ended else "cancelled" if self._cancelled.is_set() else "length"
        return self._show(self._decoder.finish(), final=True)

    def close(self) -> None:
        """Stop the generation and wait for the current token; `text` keeps what was generated."""
        self._cancelled.set()
        while self.finish_reason is None:
            item = self._queue.get()
            if item is None:
                self._end()
            elif isinstance(item, BaseException):
                self.finish_reason = "cancelled"
            else:
                self._accept(item)

    def __enter__(self) -> StreamingReply:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
