"""JSON answers: a schema becomes a grammar, and the grammar forbids every token that would leave it.

    schema -- limits --> JsonGrammar -- processor(): one for each answer --> scores of allowed tokens

llguidance (`[json]`) compiles the schema and walks the grammar; it opens no file and no address. A schema may come from
an untrusted client, so its size is bounded here, and the library's own limits bound the work of each step. Answers are
read by their bytes: the usual decoding changes spaces and punctuation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ..errors import AnswerError, JsonSchemaError, require_extra
from ..preprocessing.token_bytes import ByteDecoder, token_bytes
from ..preprocessing.tokenizer import ChatGLMTokenizer

MAX_BYTES = 65_536
MAX_DEPTH = 64
MAX_FACTOR = 10_000
"""Maximum `multipleOf`, without its decimal point: the grammar has a state for each remainder."""
MAX_MESSAGE = 300
"""Characters of the library's message."""
LIMITS = {"max_grammar_size": 100_000, "max_lexer_states": 20_000, "verbose_errors": False}
"""Limits of llguidance, below its defaults: a state takes up to 2 kB."""
OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
    "lenient": False,
}
"""One form of white space, since models otherwise repeat it without end; `oneOf` is read as `anyOf`."""
ANY_OBJECT = {"type": "object"}
"""The schema of `response_format: json_object`."""


def compile_json_schema(tokenizer: ChatGLMTokenizer, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling arguments with `json_schema` compiled into a `JsonGrammar`, if it is given.

    A schema is a dict, or a pydantic model class.

    Raises:
        JsonSchemaError: the schema is too large, or says what the library cannot express; or `[json]` is missing.
    """
    schema = sampling.get("json_schema")
    if schema is None or isinstance(schema, JsonGrammar):
        return dict(sampling)
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    return {**sampling, "json_schema": JsonGrammar(tokenizer, schema)}


class JsonGrammar:
    """A compiled schema; any number of answers may use it."""

    def __init__(self, tokenizer: ChatGLMTokenizer, schema: Any) -> None:
        require_extra("json", "json_schema", "llguidance")
        import llguidance

        self._table = token_bytes(tokenizer)
        text = _checked_text(schema)
        options: Any = OPTIONS
        limits: Any = LIMITS
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=options)
        except ValueError as error:
            raise _refusal(str(error)) from error
        self._matcher = llguidance.LLMatcher(
            _vocabulary(tokenizer), grammar, log_level=0, limits=llguidance.LLParserLimits(**limits)
        )
        if not self._matcher.is_error():
            self._matcher.compute_logit_bias()  # finds that no answer can begin
        if self._matcher.is_error():
            raise _refusal(self._matcher.get_error())

    def processor(self) -> LogitsProcessor:
        """Return the processor of one answer."""
        return _GrammarProcessor(self._matcher.deep_copy())

    def decoder(self) -> ByteDecoder:
        """Return the decoder of one answer."""
        return ByteDecoder(self._table)


def _refusal(reason: str) -> JsonSchemaError:
    reason = " ".join(reason.split())[:MAX_MESSAGE].rstrip(".:")
    reason = "no answer can match it" if reason.startswith("NoExtension") else reason
    return JsonSchemaError(f"json_schema cannot be used ({reason}). Change the schema.")


def _checked_text(schema: Any) -> str:
    """Return the schema as JSON.

    Raises:
        JsonSchemaError: it is not an object, or too large.
    """
    if not isinstance(schema, dict):
        raise JsonSchemaError('json_schema is not an object. Give a JSON schema, for example {"type": "object"}.')
    _check_depth(schema)
    try:
        text = json.dumps(_close_objects(schema), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise JsonSchemaError(f"json_schema is not JSON ({error}). Change the schema.") from error
    if len(text) > MAX_BYTES:
        raise JsonSchemaError(f"json_schema has more than {MAX_BYTES:,} bytes. Give a smaller one.")
    return text


def _check_depth(schema: Any) -> None:
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        level = [item for value in level for item in _children(value)]
        if not level:
            return
        if len(level) > MAX_BYTES:
            break
    raise JsonSchemaError(f"json_schema is nested more than {MAX_DEPTH} levels deep, or too large. Simplify it.")


def _close_objects(schema: Any, keyword: str = "") -> Any:
    """Return the schema, with no properties beside the named ones unless it allows them, as OpenAI's strict mode.

    In `allOf` each part would forbid the properties of the others: there nothing is closed.
    """
    if isinstance(schema, list):
        return [_close_objects(item) for item in schema] if keyword in ("anyOf", "oneOf", "prefixItems") else schema
    if not isinstance(schema, dict):
        return schema
    if keyword in ("properties", "patternProperties", "$defs", "definitions"):
        return {name: _close_objects(part) for name, part in schema.items()}
    if keyword not in ("", "items", "additionalProperties"):
        return schema
    closed = {word: _close_objects(part, word or " ") for word, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and not {"allOf", "additionalProperties"} & schema.keys():
        closed["additionalProperties"] = False
    return closed


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        _check_factor(value.get("multipleOf"))
        return list(value.values())
    return value if isinstance(value, list) else []


def _check_factor(factor: Any) -> None:
    """Raise `JsonSchemaError` if `multipleOf` is larger than `MAX_FACTOR`, or has too many digits behind its point."""
    large = type(factor) in (int, float) and not abs(factor) <= MAX_FACTOR
    if type(factor) is float and not large:
        large = int("".join(map(str, Decimal(repr(factor)).as_tuple().digits))) > MAX_FACTOR
    if large:
        raise JsonSchemaError(f"multipleOf in json_schema is too large or too exact. Give at most {MAX_FACTOR:,}.")


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: ChatGLMTokenizer) -> Any:
    """Build the tokenizer as llguidance takes it."""
    import llguidance

    table = token_bytes(tokenizer)

    class Vocabulary:
        is_tokenizer_wrapper = True
        eos_token_id = tokenizer.eos_token_id
        bos_token_id = None
        tokens = table
        special_token_ids = tuple(index for index, content in enumerate(table) if not content)

        def __call__(self, text: str) -> list[int]:
            """Tokenize text that the grammar forces, the longest tokens first."""
            found: list[int] = made.greedy_tokenize(text)
            return found

    vocabulary: Any = Vocabulary()
    made = llguidance.LLTokenizer(vocabulary, n_vocab=len(table), slices=[])
    return made


class _GrammarProcessor(LogitsProcessor):
    """Forbids what the grammar does not allow next; sees the whole answer, one row, from its first token on."""

    def __init__(self, matcher: Any) -> None:
        self.matcher = matcher
        self.read: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """ids [1, T] and scores [1, vocabulary] -> scores [1, vocabulary].

        Raises:
            AnswerError: the grammar became too complex.
        """
        start = input_ids.shape[1] if self.read is None else self.read
        self.read = input_ids.shape[1]
        for index in input_ids[0, start:].tolist():
            self.matcher.consume_token(index)
        allowed = torch.frombuffer(bytearray(self.matcher.compute_logit_bias()), dtype=torch.uint8) != 0
        if self.matcher.is_error():
            raise AnswerError(
                f"The JSON schema is too complex to go on ({self.matcher.stop_reason()}). Simplify its patterns."
            )
        mask = torch.zeros(scores.shape[-1], dtype=torch.bool)
        mask[: len(allowed)] = allowed[: len(mask)]
        mask = mask.to(scores.device)
        kept = scores.masked_fill(~mask, -torch.inf)
        # another setting may forbid all that is left, as min_length does the end: the grammar goes first
        return kept if kept.max() > -torch.inf else torch.zeros_like(scores).masked_fill(~mask, -torch.inf)
