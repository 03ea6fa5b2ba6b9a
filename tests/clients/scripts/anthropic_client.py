"""Anthropic's Python client: messages, plain and streamed, a follow-up, and the errors it raises."""

import base64
import json
import sys
from pathlib import Path

import anthropic

url, image, question, following = sys.argv[1:]
client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
data = base64.b64encode(Path(image).read_bytes()).decode()
source = {"type": "base64", "media_type": "image/png", "data": data}
messages = [{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": question}]}]
given = {"model": "visualglm-mini", "max_tokens": 200}
plain = client.messages.create(messages=messages, **given)
with client.messages.stream(messages=messages, **given) as stream:
    streamed = "".join(stream.text_stream)
turns = [*messages, {"role": "assistant", "content": plain.content}, {"role": "user", "content": following}]


def error_of(**changed):
    try:
        client.messages.create(**{**given, "messages": messages, **changed})
    except anthropic.APIStatusError as error:
        return [type(error).__name__, error.body["error"]["code"]]


result = {
    "answers": [plain.content[0].text, streamed],
    "followed": [client.messages.create(messages=turns, **given).content[0].text],
    "errors": {
        "too_long": error_of(system="long " * 5000),
        "model": error_of(model="claude"),
    },
}
print(json.dumps(result))
