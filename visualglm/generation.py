"""generation: a prompt's ids and picture features -> text that arrives piece by piece and can be stopped.

`Reply` runs transformers' `generate` in a thread and hands its ids, decoded, to whoever iterates. The one road to an
answer: `model.chat`, `Conversation` and the command line all take it. Knows nothing about turns or pictures' pixels.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from . import sampling
from .errors import UsageError
from .generation_limits import fault_of_numbers
from .streaming import StreamDecoder
from .tokenizer import ChatGLMTokenizer

FinishReason = Literal["stop", "length", "cancelled"]
TAKEN = {"generation_config", "streamer", "stopping_criteria", "return_dict_in_generate", "inputs", "input_ids"}
"""Arguments of `generate` that a dialogue fills by itself."""


SHORT_ANSWER = 64
"""Tokens kept free for the answer where only `max_length` is limited; upstream keeps none and cuts its answers."""


@dataclass(frozen=True)
class Limits:
    """How long a dialogue may get: `total` tokens with the answer, `answer` tokens for the answer, of which `reserve`
    are kept free when old turns have to go."""

    total: int
    answer: int
    reserve: int

    @property
    def prompt_goal(self) -> int:
        """The prompt's length that leaves room for the reserve."""
        return max(self.total - self.reserve, 0)


@dataclass(frozen=True)
class Settings:
    """How to generate: the config, what `generate` takes beside it (logits processors), and the limits on length."""

    config: GenerationConfig
    beside: dict[str, Any]
    limits: Limits
    counts_new_tokens: bool

    @property
    def eos(self) -> set[int]:
        """Ids that end an answer."""
        return set(torch.as_tensor(self.config.eos_token_id).flatten().tolist())

    def new_tokens(self, prompt_tokens: int) -> int:
        """How many tokens an answer may take after a prompt of so many."""
        return max(1, min(self.limits.answer, self.limits.total - prompt_tokens))

    def arguments(self, prompt_tokens: int) -> dict[str, Any]:
        """Keyword arguments for `generate` after a prompt of so many tokens.

        Writes the limit where the checkpoint's own config has one: transformers fills what is None from there, and
        warns where both kinds are set.
        """
        config = copy.deepcopy(self.config)
        new_tokens = self.new_tokens(prompt_tokens)
        if self.counts_new_tokens:
            config.max_new_tokens, config.max_length = new_tokens, None
        else:
            config.max_new_tokens, config.max_length = None, prompt_tokens + new_tokens
        config.min_length = min(config.min_length or 0, prompt_tokens + new_tokens)
        return {"generation_config": config, **self.beside}


def generation_settings(
    model: PreTrainedModel, preset: str | None = None, seed: int | None = None, **arguments: Any
) -> Settings:
    """The checkpoint's generation config with a preset's and the caller's arguments on top.

    The limit on length is the smallest of what the caller allows (`max_length`, which counts the prompt,
    `max_new_tokens`) and `max_sequence_length`. A `seed` seeds torch's global generators now.

    Raises:
        UsageError: an argument that has no place in a dialogue, or a length below 1.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    _check_arguments(given)
    if seed is not None:
        torch.manual_seed(seed)
    resolved = sampling.resolve(preset, **given)
    fault = fault_of_numbers(resolved)
    if fault is not None:
        raise UsageError(f"{fault}.")
    beside = {"logits_processor": resolved.pop("logits_processor")} if "logits_processor" in resolved else {}
    config = copy.deepcopy(model.generation_config)
    if "max_length" in given or "max_new_tokens" in given:  # the caller's kind of limit replaces the checkpoint's
        config.max_length = config.max_new_tokens = None
    beside |= config.update(**resolved)
    if config.eos_token_id is None:
        config.eos_token_id = model.config.eos_token_id
    return Settings(config, beside, _limits(model, config), model.generation_config.max_new_tokens is not None)


def _limits(model: PreTrainedModel, config: GenerationConfig) -> Limits:
    capacity = model.config.max_sequence_length
    total = min(config.max_length or capacity, capacity)
    if config.max_new_tokens is None:
        return Limits(total, total, min(SHORT_ANSWER, total // 8))
    return Limits(total, config.max_new_tokens, min(config.max_new_tokens, total // 4))


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name in ("max_length", "max_new_tokens"):
        if arguments.get(name) is not None and arguments[name] < 1:
            raise UsageError(f"{name} is {arguments[name]}: an answer needs at least 1 token.")
    if (arguments.get("num_return_sequences") or 1) > 1:
        raise UsageError("num_return_sequences is above 1, but a dialogue goes on with one answer: ask several times.")
    taken = sorted(TAKEN & set(arguments))
    if taken:
        raise UsageError(f"{', '.join(taken)} cannot be given here: pass sampling arguments, or use model.generate.")


def until_end(ids: list[int], eos: set[int]) -> list[int]:
    """The ids up to and with the first that ends an answer."""
    end = next((position for position, index in enumerate(ids) if index in eos), len(ids) - 1)
    return ids[: end + 1]


class _IdQueue(BaseStreamer):
    """Hands ids from the generating thread to the reading one; the first call brings the prompt and is passed over."""

    def __init__(self, ids: queue.SimpleQueue[Any]) -> None:
        self.ids = ids
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self.prompt_seen:
            for index in value.flatten().tolist():
                self.ids.put(index)
        self.prompt_seen = True

    def end(self) -> None:
        """The thread itself reports the end, so that an error is one too."""


class _Cancelled(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device, dtype=torch.bool)


_unread: weakref.WeakSet[Reply] = weakref.WeakSet()
_unread_lock = threading.Lock()


def under_way(model: Any) -> bool:
    """Whether an answer of this model is neither read to its end nor closed."""
    with _unread_lock:
        return any(reply.model is model and reply.finish_reason is None for reply in _unread)


class Reply(Iterator[str]):
    """One answer on its way: iterate for the pieces of text; their concatenation is `text`.

    `close()` (or leaving the `with` block) stops the generation within one token. `finish_reason` is None until the
    end. An error in the generating thread is raised from the iteration.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: ChatGLMTokenizer,
        input_ids: list[int],
        image_embeds: Tensor | None,
        settings: Settings,
    ) -> None:
        self.model = model
        self.prompt_tokens = len(input_ids)
        self.ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._decoder = StreamDecoder(tokenizer, process=True)
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

    def _generate(self, model: Any, prompt: Tensor, arguments: dict[str, Any]) -> None:
        """Runs in the thread. Beam search cannot stream: its ids come all at once."""
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
                for index in until_end(output[0, prompt.shape[1] :].tolist(), self._eos):
                    self._queue.put(index)
            self._queue.put(None)
        except BaseException as error:  # it must reach the reader, whatever it is: nobody waits for a dead thread
            self._queue.put(error)

    @property
    def text(self) -> str:
        """What has been said so far."""
        return self._decoder.text

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
            if piece:
                return piece
        raise StopIteration

    def _accept(self, index: int) -> str:
        self.ids.append(index)
        return "" if index in self._eos else self._decoder.push(index)

    def _end(self) -> str:
        self._thread.join()
        self._seconds = time.perf_counter() - self._started
        ended = bool(self.ids) and self.ids[-1] in self._eos
        self.finish_reason = "stop" if ended else "cancelled" if self._cancelled.is_set() else "length"
        return self._decoder.finish()

    def close(self) -> None:
        """Stops the generation and waits for the token under way; what was said stays in `text`."""
        self._cancelled.set()
        while self.finish_reason is None:
            item = self._queue.get()
            if item is None:
                self._end()
            elif isinstance(item, BaseException):
                self.finish_reason = "cancelled"
            else:
                self._accept(item)

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
