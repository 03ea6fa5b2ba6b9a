"""Convert chat messages in OpenAI's and transformers' formats to turns.

In: a list of `{"role": ..., "content": ...}`. Out: `Turn`s for `prompt.build_prompt`, and the source of each image,
unopened. `CHAT_TEMPLATE` writes the same prompt as text in Jinja, for engines that require a template.

Upstream has no system message. Its text is put before the next question, on a line of its own. Consecutive user
messages, and the texts of one message, are joined by newlines too. An image belongs to the turn of its message,
wherever in the message it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import PromptError
from .prompt import IMAGE_CLOSE, IMAGE_OPEN, MARKS, Turn, check_question
from .sentencepiece_vocabulary import TEXT_SPECIALS

IMAGE_PLACEHOLDER = IMAGE_OPEN + IMAGE_CLOSE
LITERALS = (IMAGE_OPEN, IMAGE_CLOSE, *TEXT_SPECIALS)
QUESTION_ROLES = ("user", "system", "developer")
TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image", "image_url", "input_image")


def messages_to_turns(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Turn], list[Any]]:
    """Return the turns and the source of each image (None where a part names no source).

    The last turn has no answer unless the messages end with the assistant's.
    Sources: `{"type": "image", "image" | "url" | "path" | "base64": ...}`, `{"type": "image_url", "image_url": ...}`.

    Raises:
        PromptError: a role or part is unknown, an image is outside a user message, or an answer has no question.
    """
    turns: list[Turn] = []
    images: list[Any] = []
    texts: list[str] = []
    asked, image_count = False, 0
    for message in messages:
        text, sources = _read_message(message)
        if message["role"] == "assistant":
            if not asked:
                raise PromptError("An assistant message answers nothing. Put the user message before it.")
            turns.append(Turn("\n".join(texts), text, image_count))
            texts, asked, image_count = [], False, 0
            continue
        texts += [text] if text else []
        images += sources
        asked, image_count = asked or message["role"] == "user", image_count + len(sources)
    if asked:
        turns.append(Turn("\n".join(texts), None, image_count))
    if not turns:
        raise PromptError("The messages have no user message. Ask something.")
    return turns, images


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise the errors of `messages_to_turns`, and that of a blank question, before Jinja renders the messages."""
    last = messages_to_turns(messages)[0][-1]
    if last.answer is None:
        check_question(last.question)


def _read_message(message: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Return one message's text and the sources of its images."""
    role, content = message.get("role"), message.get("content")
    if role not in (*QUESTION_ROLES, "assistant"):
        raise PromptError(f"The role {role!r} is unknown. Write user, assistant or system.")
    if isinstance(content, str):
        return content, []
    if not isinstance(content, Sequence):
        raise PromptError(f"A {role} message has no content. Write a string, or a list of text and image parts.")
    parts = [_validate_part(part) for part in content]
    texts = [str(part.get("text", "")) for part in parts if part["type"] in TEXT_PARTS]
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
{{%- set ns = namespace(turns=[], text='', asked=false, image_count=0, words='') -%}}
{{%- for message in messages -%}}
  {{%- set ns.words = '' -%}}
  {{%- if message.content is string -%}}
    {{%- set ns.words = message.content -%}}
  {{%- else -%}}
    {{%- for part in message.content -%}}
      {{%- if part is string or part.type in {list(TEXT_PARTS)} -%}}
        {{%- set words = part if part is string else part.text -%}}
        {{%- set ns.words = ns.words ~ ('\n' if ns.words and words else '') ~ words -%}}
      {{%- elif part.type in {list(IMAGE_PARTS)} and message.role == 'user' -%}}
        {{%- set ns.image_count = ns.image_count + 1 -%}}
      {{%- else -%}}
        {{{{- raise_exception('A ' ~ message.role ~ ' message has a part that does not belong there.') -}}}}
      {{%- endif -%}}
    {{%- endfor -%}}
  {{%- endif -%}}
  {{%- if message.role == 'assistant' -%}}
    {{%- if not ns.asked -%}}{{{{- raise_exception('An assistant message answers nothing.') -}}}}{{%- endif -%}}
    {{%- set turn = dict(question=ns.text, answer=ns.words, image_count=ns.image_count, open=false) -%}}
    {{%- set ns.turns = ns.turns + [turn] -%}}
    {{%- set ns.text = '' -%}}{{%- set ns.asked = false -%}}{{%- set ns.image_count = 0 -%}}
  {{%- elif message.role in {list(QUESTION_ROLES)} -%}}
    {{%- set ns.text = ns.text ~ ('\n' if ns.text and ns.words else '') ~ ns.words -%}}
    {{%- set ns.asked = ns.asked or message.role == 'user' -%}}
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
