"""The OpenAPI document is right: schemathesis, which makes requests from it, finds nothing that contradicts it."""

from __future__ import annotations

import dataclasses
from typing import Any

import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

import visualglm
from visualglm.serving.app import create_app

from .conftest import PLAIN

LIMITS = ("max_tokens", "max_completion_tokens", "max_length", "min_length")
OPERATIONS = {
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/"),
}


def test_requests_made_from_the_document(opened: visualglm.VisualGLM) -> None:
    app = create_app(opened, dataclasses.replace(PLAIN, defaults={"max_new_tokens": 2}))
    with TestClient(app):  # runs the app's lifespan
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        operations = [found.ok() for found in schema.get_all_operations()]
        assert {(o.method.upper(), o.path) for o in operations} == OPERATIONS
        for operation in operations:

            @given(case=operation.as_strategy())
            @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
            def agrees(case: Any) -> None:
                for limit in LIMITS:
                    if isinstance(case.body, dict) and isinstance(case.body.get(limit), int):
                        case.body[limit] = min(case.body[limit], 4)  # as valid as before, and quick
                case.call_and_validate()

            agrees()
