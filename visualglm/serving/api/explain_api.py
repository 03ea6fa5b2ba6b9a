"""`POST /v1/explain`: which image patches the words of an answer rest on, and whether that holds.

The answer and its explanation wait in the engine's queue one after the other. When a client disconnects, both stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from ...errors import PromptError
from ...explanation.explanation import Explanation, answered_by, explain_answer
from ...preprocessing.prompt import Turn
from .. import error_responses
from ..answering import Answering, while_connected
from ..engine.explanation_job import ExplanationJob
from ..image_reader import refuse_long_texts
from ..json_body import body_schema, read_json
from .explain_schema import MAX_ANSWER, ExplainRequest, ExplanationObject
from .openai_schema import ModelCard

MAX_TOKENS = 512
"""Maximum tokens of dialogue and answer: attention grows with their square."""


def router(answering: Answering, cards: Mapping[str, ModelCard]) -> APIRouter:
    """Build the route for a model and its adapters by their ids."""
    routes = APIRouter(prefix="/v1", tags=["explanation"])

    @routes.post(
        "/explain",
        responses=error_responses.DOCUMENTED,
        response_model=ExplanationObject,
        openapi_extra=body_schema(ExplainRequest),
    )
    async def explain(request: Request) -> Any:
        asked = await read_json(request, ExplainRequest)
        model = answering.served.choose(asked.model)
        explanation = await while_connected(request, _explain(answering, asked, answering.served.adapter(model)))
        if explanation is None:
            return error_responses.client_closed_response()
        return await asyncio.to_thread(ExplanationObject.of, explanation, model, cards[model].miniature)

    return routes


async def _explain(answering: Answering, asked: ExplainRequest, adapter: str | None) -> Explanation:
    """Explain the given answer, or else the one that the model gives.

    Raises:
        PromptError: the texts are too long, or the answer is empty.
        UsageError: the answer does not contain the word.
        ImageError, QueueFullError, QueueTimeoutError: as `Engine.prepare`.
    """
    engine, turns = answering.engine, asked.turns()
    tokenizer = engine.model.tokenizer
    refuse_long_texts([*turns, Turn(asked.answer or "")])
    images = await answering.images.read_all([asked.take_image()])
    given = {**asked.draws(), "max_new_tokens": asked.max_tokens}
    job = await engine.prepare(turns, images, asked.language or "auto", asked.seed, adapter, with_pixels=True, **given)
    images.clear()
    refuse_many_tokens(len(job.input_ids))
    if asked.answer is None:
        job.room = min(job.room, MAX_ANSWER, MAX_TOKENS - 1 - len(job.input_ids))
        engine.enqueue(job)
        async for _ in job.pieces():
            pass
    answered = await asyncio.to_thread(answered_by, job, asked.question, tokenizer, asked.answer)
    refuse_many_tokens(len(job.input_ids), len(answered.answer_ids))
    pixels, method = job.images[0].pixel_values, asked.method or "rollout"
    assert pixels is not None
    steps = explain_answer(engine.model.model, tokenizer, answered, pixels, None, method, asked.word)
    explaining = ExplanationJob(job, steps)
    engine.enqueue(explaining)
    return await explaining.result()


def refuse_many_tokens(prompt: int, answer: int = 1) -> None:
    """Raise `PromptError` if dialogue and answer have more tokens than one explanation may have."""
    if answer > MAX_ANSWER or prompt + answer >= MAX_TOKENS:
        raise PromptError(
            f"The dialogue has {prompt} tokens and the answer {answer}. An explanation takes less than {MAX_TOKENS} in "
            f"all and at most {MAX_ANSWER} in the answer: shorten them."
        )
