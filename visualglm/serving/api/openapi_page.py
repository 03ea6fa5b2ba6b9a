"""Write the OpenAPI document as a page, `/docs`: plain HTML without scripts or anything from another site."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid #8888; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
"""
POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MAX_DEPTH = 3
"""Depth to which the types of nested objects are written out."""


def add_openapi_page(app: FastAPI) -> None:
    """Add the route `GET /docs`."""

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(write_page(app.openapi()), headers={"Content-Security-Policy": POLICY})


def write_page(document: Mapping[str, Any]) -> str:
    """Write an OpenAPI document as HTML: each operation with the fields of its body and its responses."""
    title = f"{_text(document['info']['title'])} {_text(document['info']['version'])}"
    operations = "".join(
        _write_operation(path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f'<body><h1>{title}</h1><p>The OpenAPI document is at <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{operations}</body></html>"
    )


def _write_operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    parts = [f"<section><h2><code>{method.upper()} {_text(path)}</code></h2>"]
    if body is not None:
        parts.append(f"<p>{_text(body.get('description', ''))}</p>{_write_table('field', 'type', _fields(body))}")
    responses = ((status, response.get("description", "")) for status, response in operation["responses"].items())
    parts.append(_write_table("status", "meaning", sorted(responses)))
    return "".join([*parts, "</section>"])


def _fields(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield name, f"{_type_of(field)}{', required' if name in required else ''}"


def _write_table(name: str, about: str, rows: Any) -> str:
    lines = "".join(f"<tr><td><code>{_text(key)}</code></td><td>{_text(value)}</td></tr>" for key, value in rows)
    return f"<table><tr><th>{name}</th><th>{about}</th></tr>{lines}</table>"


def _type_of(schema: Mapping[str, Any], depth: int = 0) -> str:
    """Write a type in a few words: alternatives, items of lists, fields of objects, and bounds of numbers."""
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type_of(one, depth) for one in schema[key]))
    if "const" in schema or "enum" in schema:
        return " or ".join(map(repr, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of ({_type_of(schema.get('items', {}), depth)})"
    if kind == "object" and "properties" in schema and depth < MAX_DEPTH:
        fields = (f"{name}: {_type_of(field, depth + 1)}" for name, field in schema["properties"].items())
        return f"{{{', '.join(fields)}}}"
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([kind, *bounds])


def _text(value: Any) -> str:
    return html.escape(str(value))
