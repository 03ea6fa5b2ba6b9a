"""Build the ASGI app: APIs, health, metrics, page, middleware.

The engine starts and stops with the app: on shutdown, running and waiting answers are finished.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from .. import __version__
from ..conversation import VisualGLM
from ..preprocessing.prompt import Language
from . import error_responses, openai_api, upstream_api
from .engine import Engine
from .image_reader import ImageReader
from .limits import EngineLimits
from .metrics import Metrics, RequestCount
from .middleware import ApiKeyMiddleware, BodyLimitMiddleware, RequestLimit
from .model_cards import model_cards
from .model_ids import ModelIds
from .same_origin import SameOriginOnly
from .static_page import StaticPage
from .url_fetcher import ImageFetcher

BODY_SECONDS = 60.0


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    `name`: the model's id. `keys`: accepted API keys, none if empty (then no key is required). `trusted_hosts`: Host
    headers to answer. `language` and `defaults` (sampling) apply where a request sets nothing. `miniature`: the packed
    model is served.
    """

    name: str = "visualglm-mini"
    keys: tuple[str, ...] = ()
    image_hosts: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ("*",)
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

    app = FastAPI(title="VisualGLM", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.engine = engine
    error_responses.add_exception_handlers(app)
    _add_operations(app, metrics, settings)
    cards = model_cards(engine, served, settings.miniature)
    app.include_router(openai_api.router(engine, served, ImageReader(ImageFetcher(settings.image_hosts)), cards))
    app.include_router(upstream_api.router(engine, served))
    _refuse_unknown_v1(app)
    _add_guards(app, metrics, settings)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _add_operations(app: FastAPI, metrics: Metrics, settings: ServerSettings) -> None:
    @app.get("/health", tags=["operations"])
    async def health() -> Health:
        return Health(model=settings.name, miniature=settings.miniature)

    @app.get("/metrics", tags=["operations"], response_class=Response, responses={401: error_responses.DOCUMENTED[401]})
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _refuse_unknown_v1(app: FastAPI) -> None:
    """Answer unknown paths below `/v1` in OpenAI's shape."""

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def unknown(path: str, request: Request) -> Response:
        return error_responses.error_reply(
            404, f"{request.method} /v1/{path[:100]} is not supported by this server.", code="unknown_url"
        )


def _add_guards(app: FastAPI, metrics: Metrics, settings: ServerSettings) -> None:
    """Add the middleware; the last one added runs first."""
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(BodyLimitMiddleware, byte_limit=settings.body_limit, second_limit=settings.body_seconds)
    app.add_middleware(RequestLimit, limit=settings.request_limit)
    app.add_middleware(ApiKeyMiddleware, keys=settings.keys)
    if settings.with_page:
        app.add_middleware(StaticPage)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.trusted_hosts), www_redirect=False)
    app.add_middleware(SameOriginOnly)
    app.add_middleware(RequestCount, metrics=metrics)


def _document(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document, without FastAPI's 422, which this server never sends."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        app.openapi_schema = document
    return app.openapi_schema
