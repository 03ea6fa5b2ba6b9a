"""The OpenAPI document is right: schemathesis, which makes requests from it, finds nothing that contradicts it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from ..conftest import PLAIN, Server

LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_length", "min_length")
OPERATIONS = {
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/explain"),
    ("POST", "/"),
}


def test_requests_made_from_the_document(serve: Callable[..., Server]) -> None:
    server = serve(dataclasses.replace(PLAIN, defaults={"max_new_tokens": 2}))
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {(operation.method.upper(), operation.path) for operation in operations} == OPERATIONS
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def agrees(case: Any) -> None:
            for limit in LIMITS:
                if isinstance(case.body, dict) and isinstance(case.body.get(limit), int | float):
                    case.body[limit] = min(case.body[limit], 4)  # as valid as before, and quick
            case.call_and_validate(excluded_checks=[positive_data_acceptance])  # a right string may be no image

        agrees()
