"""Convert chat messages in OpenAI's and transformers' formats to turns.

In: a list of `{"role": ..., "content": ...}`. Out: `Turn`s for `prompt.build_prompt`, and the source of each image,
unopened. `CHAT_TEMPLATE` writes the same prompt as text in Jinja, for engines that require a template.

Upstream has no system message. Its text is put before the next question, on a line of its own, and remains in the
prompt when the turn of that question is dropped. Consecutive messages of one side, and the texts of one message, are
joined by newlines too. An image belongs to the turn of its message, wherever in the message it is.

The model has no tools. The result of one (roles `tool` and `function`) is part of the next question, and an assistant
message with nothing but the call is left out. A leading assistant message answers an empty question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import PromptError, UsageError
from .prompt import IMAGE_CLOSE, IMAGE_OPEN, MARKS, Turn, check_question
from .sentencepiece_vocabulary import TEXT_SPECIALS

IMAGE_PLACEHOLDER = IMAGE_OPEN + IMAGE_CLOSE
LITERALS = (IMAGE_OPEN, IMAGE_CLOSE, *TEXT_SPECIALS)
SYSTEM_ROLES = ("system", "developer")
ASKING_ROLES = ("user", "tool", "function")
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
IMAGE_PARTS = ("image", "image_url", "input_image")
CALLS = ("tool_calls", "function_call")


def messages_to_turns(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Turn], list[Any]]:
    """Return the turns and the source of each image (None where a part names no source).

    The last turn has no answer unless the messages end with the assistant's.
    Sources: `{"type": "image", "image" | "url" | "path" | "base64": ...}`, `{"type": "image_url", "image_url": ...}`.

    Raises:
        PromptError: a role or part is unknown, an image is outside a user message, or nothing is asked.
    """
    turns: list[Turn] = []
    images: list[Any] = []
    texts: list[str] = []
    system: list[str] = []
    asked = any_asked = False
    image_count = 0
    for message in messages:
        text, sources = _read_message(message)
        if text is None:
            continue
        if message["role"] == "assistant":
            if turns and not texts and not asked:
                turns[-1] = replace(turns[-1], answer=f"{turns[-1].answer}\n{text}")
            else:
                turns.append(Turn("\n".join(texts), text, image_count, "\n".join(system)))
            texts, system, asked, image_count = [], [], False, 0
            continue
        texts += [text] if text else []
        system += [text] if text and message["role"] in SYSTEM_ROLES else []
        images += sources
        asked, image_count = asked or message["role"] in ASKING_ROLES, image_count + len(sources)
        any_asked = any_asked or asked
    if asked:
        turns.append(Turn("\n".join(texts), None, image_count, "\n".join(system)))
    if not any_asked:
        raise PromptError("The messages have no user message. Ask something.")
    return turns, images


def refuse_assistant_mask(arguments: Mapping[str, Any]) -> None:
    """Raise `UsageError` if a mask of the answers is wanted of another template, which needs a fast tokenizer."""
    if arguments.get("return_assistant_tokens_mask"):
        raise UsageError(
            "return_assistant_tokens_mask needs our own chat template, because SentencePiece has no character offsets. "
            "Remove the other chat_template, or return_assistant_tokens_mask."
        )


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise the errors of `messages_to_turns`, and that of a blank question, before Jinja renders the messages."""
    last = messages_to_turns(messages)[0][-1]
    if last.answer is None:
        check_question(last.question)


def _read_message(message: Mapping[str, Any]) -> tuple[str | None, list[Any]]:
    """Return one message's text and the sources of its images; no text where the assistant only calls a tool."""
    role, content = message.get("role"), message.get("content")
    if role not in (*ASKING_ROLES, *SYSTEM_ROLES, "assistant"):
        raise PromptError(f"The role {role!r} is unknown. Write user, assistant, system or tool.")
    if role == "assistant" and not content:
        called = any(message.get(call) for call in CALLS)
        return message.get("refusal") or (None if called else ""), []
    if isinstance(content, str):
        return content, []
    if not isinstance(content, Sequence):
        raise PromptError(f"A {role} message has no content. Write a string, or a list of text and image parts.")
    parts = [_validate_part(part) for part in content]
    texts = [str(part.get(part["type"], part.get("text")) or "") for part in parts if part["type"] in TEXT_PARTS]
    sources = [_image_source(part) for part in parts if part["type"] in IMAGE_PARTS]
    if sources and role != "user":
        raise PromptError(f"A {role} message has an image: images belong to user messages.")
    return "\n".join(text for text in texts if text), sources


def _validate_part(part: Any) -> Mapping[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else part
    if kind not in TEXT_PARTS + IMAGE_PARTS:
        raise PromptError(f"A message part of type {kind!r} is unknown. Write text, image or image_url.")
    return part  # type: ignore[no-any-return]


def _image_source(part: Mapping[str, Any]) -> Any:
    if part.get("base64") is not None:
        return f"data:image/unknown;base64,{part['base64']}"
    given = [part[key] for key in ("image", "image_url", "url", "path") if part.get(key) is not None]
    source = given[0] if given else None
    return source.get("url") if isinstance(source, Mapping) else source


def _jinja_escape() -> str:
    """Return the Jinja filters that do what `tokenizer.escape_special_tokens` does."""
    steps = [r"replace('\x10', '')"]
    steps += [f"replace('{literal}', '{literal[0]}\\x10{literal[1:]}')" for literal in LITERALS]
    return " | ".join(steps)


CHAT_TEMPLATE = rf"""
{{#- VisualGLM's dialogue: {MARKS["zh"][0]}question, newline, {MARKS["zh"][1]}answer, newline (Q: and A: where the last
     question has no Chinese character, or language='en'); {IMAGE_PLACEHOLDER} per image before its turn. A literal
     special piece in a message gets a \x10 inside: it remains text, and the tokenizer drops the \x10. -#}}
{{%- set ns = namespace(turns=[], last={{}}, text='', asked=false, image_count=0, words='') -%}}
{{%- for message in messages -%}}
  {{%- set ns.words = '' -%}}
  {{%- if not message.content -%}}
    {{%- set ns.words = message.refusal | default('', true) -%}}
  {{%- elif message.content is string -%}}
    {{%- set ns.words = message.content -%}}
  {{%- else -%}}
    {{%- for part in message.content -%}}
      {{%- if part is string or part.type in {list(TEXT_PARTS)} -%}}
        {{%- set words = part if part is string else part[part.type] | default(part.text, true) | default('', true) -%}}
        {{%- set ns.words = ns.words ~ ('\n' if ns.words and words else '') ~ words -%}}
      {{%- elif part.type in {list(IMAGE_PARTS)} and message.role == 'user' -%}}
        {{%- set ns.image_count = ns.image_count + 1 -%}}
      {{%- else -%}}
        {{{{- raise_exception('A ' ~ message.role ~ ' message has a part that does not belong there.') -}}}}
      {{%- endif -%}}
    {{%- endfor -%}}
  {{%- endif -%}}
  {{%- set calls = {" or ".join(f"message.{call}" for call in CALLS)} -%}}
  {{%- if message.role == 'assistant' and not ns.words and calls -%}}
  {{%- elif message.role == 'assistant' and ns.turns and not ns.text and not ns.asked -%}}
    {{%- set ns.last = ns.turns[-1] -%}}
    {{%- set ns.turns = ns.turns[:-1] + [dict(ns.last, answer=ns.last.answer ~ '\n' ~ ns.words)] -%}}
  {{%- elif message.role == 'assistant' -%}}
    {{%- set turn = dict(question=ns.text, answer=ns.words, image_count=ns.image_count, open=false) -%}}
    {{%- set ns.turns = ns.turns + [turn] -%}}
    {{%- set ns.text = '' -%}}{{%- set ns.asked = false -%}}{{%- set ns.image_count = 0 -%}}
  {{%- elif message.role in {[*ASKING_ROLES, *SYSTEM_ROLES]} -%}}
    {{%- set ns.text = ns.text ~ ('\n' if ns.text and ns.words else '') ~ ns.words -%}}
    {{%- set ns.asked = ns.asked or message.role in {list(ASKING_ROLES)} -%}}
  {{%- else -%}}
    {{{{- raise_exception('The role ' ~ message.role ~ ' is unknown.') -}}}}
  {{%- endif -%}}
{{%- endfor -%}}
{{%- if ns.asked -%}}
  {{%- set ns.turns = ns.turns + [dict(question=ns.text, answer='', image_count=ns.image_count, open=true)] -%}}
{{%- endif -%}}
{{%- set lang = namespace(zh=(language | default('auto')) == 'zh') -%}}
{{%- if (language | default('auto')) == 'auto' and ns.turns -%}}
  {{%- for c in ns.turns[-1].question -%}}
    {{%- if '\u3400' <= c <= '\u4dbf' or '\u4e00' <= c <= '\u9fff' or '\uf900' <= c <= '\ufaff'
        or '\U00020000' <= c <= '\U000323af' -%}}{{%- set lang.zh = true -%}}{{%- endif -%}}
  {{%- endfor -%}}
{{%- endif -%}}
{{%- for turn in ns.turns -%}}
  {{{{- '{IMAGE_PLACEHOLDER}' * turn.image_count -}}}}
  {{{{- '{MARKS["zh"][0]}' if lang.zh else '{MARKS["en"][0]}' -}}}}
  {{{{- turn.question | {_jinja_escape()} -}}}}
  {{{{- '\n{MARKS["zh"][1]}' if lang.zh else '\n{MARKS["en"][1]}' -}}}}
  {{%- if not turn.open -%}}
    {{{{- turn.answer | {_jinja_escape()} -}}}}
    {{{{- '\n' -}}}}
  {{%- endif -%}}
{{%- endfor -%}}
""".strip()
