"""Build the ASGI app: APIs, health, metrics, page, middleware.

The engine starts and stops with the app: on shutdown, running and waiting answers are finished.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from .. import __version__
from ..conversation import VisualGLM
from ..preprocessing.prompt import Language
from . import error_responses
from .answering import Answering
from .api import explain_api, messages_api, openai_api, responses_api, upstream_api
from .api.model_cards import model_cards
from .api.openapi_page import add_openapi_page
from .engine.engine import Engine
from .engine.limits import EngineLimits
from .image_reader import ImageReader
from .metrics import Metrics, RequestCount
from .middleware.allowed_origins import cors_settings
from .middleware.api_key import ApiKeyMiddleware
from .middleware.head_as_get import HeadAsGet
from .middleware.request_id import RequestId
from .middleware.request_limits import BodyLimitMiddleware, RequestLimit
from .middleware.same_origin import SameOriginOnly
from .model_ids import ModelIds
from .url_fetcher import ImageFetcher
from .web.static_page import StaticPage

BODY_SECONDS = 60.0
KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "basic": {"type": "http", "scheme": "basic"},
}
"""OpenAPI's names of the ways to send a key (middleware/api_key.py)."""


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    `name`: the model's id. `keys`: accepted API keys, none if empty (then no key is required). `trusted_hosts`: Host
    headers to answer. `origins`: other sites whose pages may send requests. `language` and `defaults` (sampling) apply
    where a request sets nothing. `miniature`: the packed model is served.
    """

    name: str = "visualglm-mini"
    keys: tuple[str, ...] = ()
    image_hosts: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ("*",)
    origins: tuple[str, ...] = ()
    with_page: bool = True
    miniature: bool = False
    language: Language = "auto"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    body_limit: int = 32_000_000
    body_seconds: float = BODY_SECONDS
    request_limit: int = 1000
    limits: EngineLimits = field(default_factory=EngineLimits)


class Health(BaseModel):
    """The server's health and the model's id; `miniature`: it is the packed model."""

    status: str = "ok"
    model: str
    miniature: bool


def create_app(model: VisualGLM, settings: ServerSettings) -> FastAPI:
    """Build the app; its engine is `app.state.engine`. A request chooses among the adapters that the model has now."""
    metrics = Metrics()
    served = ModelIds(settings.name, tuple(model.adapters))
    engine = Engine(model, settings.limits, metrics, settings.language, settings.defaults)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()

    app = FastAPI(
        title="VisualGLM", version=__version__, lifespan=life, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.engine = engine
    error_responses.add_exception_handlers(app)
    _add_operations(app, metrics, settings)
    cards = model_cards(engine, served, settings.miniature)
    answering = Answering(engine, served, ImageReader(ImageFetcher(settings.image_hosts)))
    app.include_router(openai_api.router(answering, cards))
    app.include_router(responses_api.router(answering))
    app.include_router(messages_api.router(answering))
    app.include_router(explain_api.router(answering, cards))
    app.include_router(upstream_api.router(engine, served))
    add_openapi_page(app)
    _add_guards(app, metrics, settings)
    app.openapi = lambda: _document(app, bool(settings.keys))  # type: ignore[method-assign]
    return app


def _add_operations(app: FastAPI, metrics: Metrics, settings: ServerSettings) -> None:
    @app.get("/health", tags=["operations"])
    async def health() -> Health:
        return Health(model=settings.name, miniature=settings.miniature)

    @app.get("/metrics", tags=["operations"], response_class=Response, responses={401: error_responses.DOCUMENTED[401]})
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_guards(app: FastAPI, metrics: Metrics, settings: ServerSettings) -> None:
    """Add the middleware; the last one added runs first."""
    app.add_middleware(error_responses.FailureReply)
    app.add_middleware(BodyLimitMiddleware, byte_limit=settings.body_limit, second_limit=settings.body_seconds)
    app.add_middleware(RequestLimit, limit=settings.request_limit)
    app.add_middleware(ApiKeyMiddleware, keys=settings.keys)
    if settings.with_page:
        app.add_middleware(StaticPage)
    if settings.origins:
        app.add_middleware(CORSMiddleware, **cors_settings(settings.origins))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.trusted_hosts), www_redirect=False)
    app.add_middleware(SameOriginOnly, origins=settings.origins)
    app.add_middleware(RequestCount, metrics=metrics)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestId)


def _document(app: FastAPI, with_keys: bool) -> dict[str, Any]:
    """Build the OpenAPI document with the ways to send a key, without FastAPI's 422, which this server never sends."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        document["components"]["securitySchemes"] = KEY_SCHEMES
        document["security"] = [*([] if with_keys else [{}]), *({name: []} for name in KEY_SCHEMES)]
        document["paths"]["/health"]["get"]["security"] = []
        app.openapi_schema = document
    return app.openapi_schema
