"""JSON answers: always of their schema, the same in every interface, and hostile schemas end in bounded time."""

from __future__ import annotations

import json
import random
from typing import Any

import pydantic
import pytest
import torch

import visualglm
from visualglm.errors import AnswerError, UsageError
from visualglm.inference import json_grammar
from visualglm.inference.batch_generation import generate_batch
from visualglm.inference.generation_settings import generation_settings
from visualglm.inference.json_grammar import ANY_OBJECT, JsonGrammar, compile_json_schema
from visualglm.inference.running_batch import RunningBatch
from visualglm.preprocessing.token_bytes import ByteDecoder, token_bytes

SAMPLE = sorted((visualglm.packed_model() / "samples").glob("*.png"))[0]
QUESTION = "What is in the picture?"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "颜色": {"enum": ["红,蓝 。", "蓝 , b"]},  # what the usual decoding would change
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "text": {"type": "string", "maxLength": 8},
    },
    "required": ["颜色", "count", "text"],
    "additionalProperties": False,
}
SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "seed": 3, "temperature": 1.5},
    {"preset": "sat", "seed": 1},
    {"min_length": 150},  # forbids the end: the grammar goes first
]


def check(text: str) -> None:
    found = json.loads(text)
    assert list(found) == list(SCHEMA["properties"])
    assert found["颜色"] in SCHEMA["properties"]["颜色"]["enum"]
    assert 1 <= found["count"] <= 99 and len(found["text"]) <= 8


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_answers_are_of_the_schema_alone_and_in_a_batch(opened: visualglm.VisualGLM, sampling: dict[str, Any]) -> None:
    alone = opened.ask(SAMPLE, QUESTION, json_schema=SCHEMA, **sampling)
    assert alone.finish_reason == "stop"
    check(alone.text)
    rows = [opened.row(opened.encode(SAMPLE), QUESTION, json_schema=SCHEMA, **sampling) for _ in range(2)]
    generate_batch(opened.model, rows[:1])
    batch: RunningBatch[Any] = RunningBatch(opened.model)
    batch.add(rows[1])
    while batch.rows:
        batch.step()
    assert [row.text for row in rows] == [alone.text] * 2


def test_a_pydantic_class_is_a_schema(opened: visualglm.VisualGLM) -> None:
    class Scene(pydantic.BaseModel):
        many: bool
        shape: str = pydantic.Field(max_length=5)

    Scene.model_validate_json(opened.ask(SAMPLE, QUESTION, json_schema=Scene).text)


@pytest.mark.parametrize(
    ("schema", "same"),
    [
        ({"properties": {"a": {"type": "string"}}, "additionalProperties": True}, True),
        ({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, True),
        ({"enum": [{"properties": {}}], "const": {"properties": {}}}, True),
        ({"properties": {"properties": {"type": "string"}}}, False),
        ({"$defs": {"x": {"properties": {"items": {"items": {"properties": {}}}}}}}, False),
    ],
)
def test_objects_have_the_named_properties_only(schema: dict[str, Any], same: bool) -> None:
    closed = json_grammar._close_objects(schema)
    if same:
        assert closed == schema
    else:
        assert json.loads(json.dumps(closed).replace(', "additionalProperties": false', "")) == schema != closed
        assert list(closed.get("properties", {})) == list(schema.get("properties", {}))


def test_every_piece_of_text_has_its_bytes(opened: visualglm.VisualGLM) -> None:
    table = token_bytes(opened.tokenizer)
    for text in ("a cat  and\n\ttwo 🐱 猫狗。", '{"a": [1, null]}'):
        ids = opened.tokenizer.encode_plain(text)
        assert b"".join(table[index] for index in ids).decode().strip() == text
        decoder = ByteDecoder(table)
        assert ("".join(map(decoder.push, ids)) + decoder.finish()).strip() == text
    for special in ("<sop>", "<eop>", "<pad>", "<unk>", "[gMASK]"):
        assert table[opened.tokenizer.sp_model.piece_to_id(special)] == b""
    assert ByteDecoder(table).push(len(table) + 3) == "", "the model has more rows than the vocabulary"


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ([], "not an object"),
        ({"type": "objekt"}, "Invalid type: objekt"),
        ({"not": {}}, 'Unimplemented keys: ["not"]'),
        ({"not": {}, "x-guidance": {"lenient": True}}, 'Unimplemented keys: ["not"]'),
        ({"$ref": "#"}, "no answer can match"),
        ({"enum": []}, "Unsatisfiable"),
        ({"$ref": "file:///etc/passwd"}, "not present"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "not present"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"type": "integer", "multipleOf": 10**9}, "multipleOf"),
        ({"type": "number", "multipleOf": 0.123456}, "multipleOf"),
        ({"type": "number", "multipleOf": float("inf")}, "multipleOf"),
        ({"minimum": float("nan")}, "not JSON"),
        ({"minimum": 10**5000}, "not JSON"),
        ({"title": "\ud800"}, "hex escape"),
        ({"title": "a" * 70_000}, "65,536 bytes"),
        ({"default": object()}, "not JSON"),
    ],
)
def test_schemas_that_cannot_be_are_refused_by_name(opened: visualglm.VisualGLM, schema: Any, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        opened.ask(SAMPLE, QUESTION, json_schema=schema)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_deep_and_circular_schemas_are_refused(opened: visualglm.VisualGLM) -> None:
    circle: dict[str, Any] = {}
    circle["items"] = circle
    wide: dict[str, Any] = {"type": "string"}
    for _ in range(30):
        wide = {"anyOf": [wide, wide]}
    for schema in (circle, wide):
        with pytest.raises(UsageError, match="too large"):
            JsonGrammar(opened.tokenizer, schema)


HOSTILE: list[dict[str, Any]] = [
    {"type": "string", "minLength": 10**9},
    {"type": "array", "items": {"type": "string"}, "minItems": 10**8},
    {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
    {"type": "string", "pattern": "^(a|b|ab)*c{50,1000}(.*x){20}$"},
    {"type": "string", "pattern": ".*a.{1000}"},
    {"type": "string", "pattern": "([a-z]*[a-z]*[a-z]*)*[0-9]{99}"},
    {"allOf": [{"pattern": f".*a.{{{n}}}"} for n in range(10, 20)], "type": "string"},
    {"anyOf": [{"const": f"x{n}"} for n in range(3000)]},
    {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1500)}},
    {"type": "number", "multipleOf": 0.9973, "minimum": -1e15},
]


@pytest.mark.parametrize("schema", HOSTILE)
def test_hostile_schemas_are_answered_or_refused(opened: visualglm.VisualGLM, schema: dict[str, Any]) -> None:
    """Fifty random steps end, one way or the other, long before the limit of a test."""
    chance = torch.Generator().manual_seed(random.Random(1).randrange(99))
    try:
        processor = JsonGrammar(opened.tokenizer, schema).processor()
        ids = torch.zeros(1, 3, dtype=torch.long)
        for _ in range(50):
            scores = processor(ids, torch.zeros(1, opened.model.config.vocab_size))
            drawn = torch.multinomial(scores.softmax(-1), 1, generator=chance)
            ids = torch.cat([ids, drawn], dim=1)
            if drawn.item() == opened.tokenizer.eos_token_id:
                break
    except (UsageError, AnswerError) as refused:
        assert "json_schema" in str(refused) or "JSON schema" in str(refused)


def test_what_cannot_go_together_is_said(opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="beam search"):
        opened.ask(SAMPLE, QUESTION, json_schema=ANY_OBJECT, num_beams=2)
    with pytest.raises(UsageError, match="tokenizer"):
        generation_settings(opened.model, json_schema=ANY_OBJECT)
    compiled = compile_json_schema(opened.tokenizer, {"json_schema": ANY_OBJECT})
    assert compile_json_schema(opened.tokenizer, compiled) == compiled
    monkeypatch.setattr(visualglm.errors, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs llguidance"):
        opened.ask(SAMPLE, QUESTION, json_schema=ANY_OBJECT)
