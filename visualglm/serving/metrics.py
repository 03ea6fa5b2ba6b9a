"""Metrics for Prometheus at `/metrics`: requests, queue, tokens, seconds, memory, images.

Each server has its own registry. No label holds text of a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .engine.job import Job

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class EngineState(Protocol):
    """State of an engine that the gauges read."""

    running: int
    memory: Any

    @property
    def queued(self) -> int: ...


class Metrics:
    """The server's counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "visualglm_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.answers = Counter("visualglm_answers", "Answers by how they ended.", ["reason"], registry=self.registry)
        self.prompt_tokens = Counter("visualglm_prompt_tokens", "Tokens read.", registry=self.registry)
        self.completion_tokens = Counter("visualglm_completion_tokens", "Tokens said.", registry=self.registry)
        self.first_token = Histogram(
            "visualglm_first_token_seconds",
            "From a request to its first token.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.seconds = Histogram(
            "visualglm_answer_seconds", "From a request to its whole answer.", buckets=SECONDS, registry=self.registry
        )

    def watch(self, engine: EngineState) -> None:
        """Read the engine's state on each request for metrics."""
        for name, about, read in (
            ("queue_length", "Requests that wait.", lambda: engine.queued),
            ("running", "Requests in the running batch.", lambda: engine.running),
            ("image_hits", "Images whose embeddings were cached.", lambda: engine.memory.hits),
            ("image_misses", "Images that were encoded.", lambda: engine.memory.misses),
        ):
            Gauge(f"visualglm_{name}", about, registry=self.registry).set_function(read)

    def count(self, batch: Sequence[Job]) -> None:
        """Count finished jobs."""
        for job in batch:
            self.answers.labels(job.finish_reason or "error").inc()
            self.prompt_tokens.inc(len(job.input_ids))
            self.completion_tokens.inc(len(job.ids))
            self.seconds.observe(job.seconds)
            if job.first_token_seconds is not None:
                self.first_token.observe(job.first_token_seconds)

    def text(self) -> bytes:
        """Return Prometheus' exposition format."""
        return generate_latest(self.registry)


class RequestCount:
    """Count responses by route (its pattern, never a user's text) and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)
