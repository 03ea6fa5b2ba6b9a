"""Upstream's `POST /`: `{image, text, history}` -> `{result, history, status, time}`.

Like upstream's api.py and api_hf.py, but the image is optional, its base64 may have line breaks (even raw ones, which
JSON forbids), the sampling parameters are used, and the returned history contains the new turn.
"""

from __future__ import annotations

import asyncio
import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from ...errors import ImageError
from ...preprocessing.images import base64_bytes, data_url_bytes
from ...preprocessing.prompt import Turn
from .. import error_responses
from ..answering import collect_text, while_connected
from ..engine.engine import Engine
from ..image_reader import refuse_long_texts
from ..json_body import body_schema, read_json
from ..model_ids import ModelIds
from ..request_fields import MAX_MESSAGES, SEED

PAIR = Annotated[list[str], Field(min_length=2, max_length=2, fail_fast=True)]
"""Question and answer; a list, because FastAPI describes a tuple in a form that OpenAPI 3.1 forbids."""


class UpstreamRequest(BaseModel):
    """A request of upstream's clients; missing fields come from the checkpoint's generation config."""

    model_config = ConfigDict(extra="ignore")

    text: str
    image: str | None = None
    history: Annotated[list[PAIR], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    max_length: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    min_length: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None
    do_sample: bool | None = None
    seed: SEED | None = None

    def turns(self) -> list[Turn]:
        """Return the dialogue; its image belongs to the first turn, as in upstream."""
        texts: list[tuple[str, str | None]] = [*((q, a) for q, a in self.history or []), (self.text, None)]
        return [Turn(q, a, int(place == 0 and bool(self.image))) for place, (q, a) in enumerate(texts)]

    def images(self) -> list[bytes]:
        """Return the image's bytes, if there is one.

        Raises:
            ImageError: it is not base64, for example a path.
        """
        if not self.image:
            return []
        decode = data_url_bytes if self.image[:5].lower() == "data:" else base64_bytes
        try:
            return [decode(self.image)]
        except ImageError as error:
            raise ImageError("image is not base64. Send the image's bytes in base64, not its path.") from error

    def sampling(self) -> dict[str, Any]:
        """Return the sampling arguments in transformers' names."""
        names = ("max_length", "min_length", "temperature", "top_p", "top_k", "repetition_penalty", "do_sample")
        return {name: getattr(self, name) for name in names}


class UpstreamReply(BaseModel):
    """Response in upstream's shape."""

    result: str
    history: list[PAIR]
    status: int = 200
    time: str


def router(engine: Engine, served: ModelIds) -> APIRouter:
    """Build the route; its requests name no model, so the first adapter answers if there is one."""
    routes = APIRouter(tags=["upstream"])

    @routes.post(
        "/",
        responses=error_responses.DOCUMENTED,
        response_model=UpstreamReply,
        openapi_extra=body_schema(UpstreamRequest),
    )
    async def answer(request: Request) -> Any:
        asked = await read_json(request, UpstreamRequest)
        turns = asked.turns()
        refuse_long_texts(turns)
        images = await asyncio.to_thread(asked.images)
        asked.image = None  # do not keep the encoded image while the request waits for its answer
        asking = engine.ask(turns, images, "auto", asked.seed, adapter=served.first, **asked.sampling())
        job = await while_connected(request, asking)
        images.clear()
        text = await collect_text(job, request) if job is not None else None
        if text is None:
            return error_responses.client_closed_response()
        now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        return UpstreamReply(result=text, history=[*(asked.history or []), [asked.text, text]], time=now)

    return routes
