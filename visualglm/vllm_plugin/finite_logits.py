"""End an answer whose logits are NaN or infinite; the other requests of the batch go on.

    worker: logits [rows, vocabulary] -- mark_rows --> NaN in such a row -- vLLM counts NaN per request
    engine: counts -- scheduler --> the request ends with an error, and `NO_ANSWER` as its stop reason
    server: `AsyncLLM.generate` --> the request's error has `NO_ANSWER` as its message

Rows are marked, because vLLM counts NaN but not infinity. Depends on private parts of vLLM: the method that chooses the
scheduler, and the scheduler's `_update_request_with_output`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cache
from typing import Any

import torch
from torch import Tensor
from vllm.config import SchedulerConfig
from vllm.v1.request import RequestStatus

from ..network.configuration import VisualGLMConfig
from ..network.sampling import NO_ANSWER

COUNT_VARIABLE = "VLLM_COMPUTE_NANS_IN_LOGITS"


def count_nan() -> None:
    """Make vLLM count NaN per request, in this process and those that it starts."""
    os.environ[COUNT_VARIABLE] = "1"


def mark_rows(logits: Tensor) -> Tensor:
    """Set the first logit of each row [rows, vocabulary] whose largest is not finite to NaN, in place.

    NaN and infinity reach the maximum, suppressed ids do not.
    """
    first = logits[:, :1]
    first.masked_fill_(~logits.amax(-1, keepdim=True).isfinite(), torch.nan)
    return logits


class EndsRequestsWithoutAnswer:
    """Mixin placed before one of vLLM's schedulers; acts for VisualGLM only."""

    _without_answer: frozenset[str] = frozenset()
    vllm_config: Any

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Note the requests of this pass that have NaN logits, and process it."""
        if isinstance(self.vllm_config.model_config.hf_config, VisualGLMConfig):
            counts = model_runner_output.num_nans_in_logits or {}
            self._without_answer = frozenset(request for request, count in counts.items() if count)
        return super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]

    def _update_request_with_output(self, request: Any, new_token_ids: list[int], is_stale: bool = False) -> Any:
        updated = super()._update_request_with_output(request, new_token_ids, is_stale)  # type: ignore[misc]
        if request.request_id not in self._without_answer:
            return updated
        request.status, request.stop_reason, request.resumable = RequestStatus.FINISHED_ERROR, NO_ANSWER, False
        return [], True


@cache
def _ending(scheduler: type) -> type:
    return type(scheduler.__name__, (EndsRequestsWithoutAnswer, scheduler), {})


def patch_scheduler() -> None:
    """Extend vLLM's own schedulers with `EndsRequestsWithoutAnswer`. Idempotent."""
    original = SchedulerConfig.get_scheduler_cls
    if getattr(original, "supports_visualglm", False):
        return

    def get_scheduler_cls(self: Any) -> type:
        scheduler = original(self)
        return _ending(scheduler) if self.scheduler_cls is None else scheduler

    get_scheduler_cls.supports_visualglm = True  # type: ignore[attr-defined]
    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def patch_server() -> None:
    """Make vLLM's server answer `NO_ANSWER` instead of "Internal server error". Idempotent."""
    from vllm.exceptions import GenerationError
    from vllm.v1.engine.async_llm import AsyncLLM  # not needed in workers

    original = AsyncLLM.generate
    if getattr(original, "supports_visualglm", False):
        return

    async def generate(self: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(original(self, *args, **kwargs)) as outputs:
            async for output in outputs:
                if any(said.stop_reason == NO_ANSWER for said in output.outputs):
                    raise GenerationError(NO_ANSWER)
                yield output

    generate.supports_visualglm = True  # type: ignore[attr-defined]
    AsyncLLM.generate = generate
