"""OpenAI's Python client: chat completions and responses, plain and streamed, a follow-up, and the errors it raises."""

import base64
import json
import sys
from pathlib import Path

import openai

url, image, question, following = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
data_url = f"data:image/png;base64,{base64.b64encode(Path(image).read_bytes()).decode()}"
shown = {"type": "image_url", "image_url": {"url": data_url}}
messages = [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]
given = {"model": client.models.list().data[0].id}
plain = client.chat.completions.create(messages=messages, **given).choices[0].message
stream = client.chat.completions.create(messages=messages, stream=True, stream_options={"include_usage": True}, **given)
chunks = list(stream)
with client.chat.completions.stream(messages=messages, **given) as helper:
    for _ in helper:
        pass
    helped = helper.get_final_completion().choices[0].message.content
turns = [*messages, plain.model_dump(exclude_none=True), {"role": "user", "content": following}]
followed = client.chat.completions.create(messages=turns, **given)

content = [{"type": "input_image", "image_url": data_url}, {"type": "input_text", "text": question}]
items = [{"role": "user", "content": content}]
whole = client.responses.create(input=items, **given)
events = client.responses.create(input=items, stream=True, **given)
next_items = [
    *items,
    *[item.model_dump(exclude_none=True) for item in whole.output],
    {"role": "user", "content": following},
]


def error_of(call, **changed):
    try:
        call(**{**given, **changed})
    except openai.APIStatusError as error:
        return [type(error).__name__, error.code, error.request_id is not None]


too_long = [{"role": "user", "content": "long " * 5000}]
result = {
    "version": openai.__version__,
    "answers": [
        plain.content,
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        helped,
        whole.output_text,
        "".join(event.delta for event in events if event.type == "response.output_text.delta"),
    ],
    "followed": [followed.choices[0].message.content, client.responses.create(input=next_items, **given).output_text],
    "errors": {
        "too_long": error_of(client.chat.completions.create, messages=too_long),
        "responses_too_long": error_of(client.responses.create, input=too_long),
        "model": error_of(client.chat.completions.create, messages=messages, model="gpt-4o"),
        "kept": error_of(client.responses.create, input="?", previous_response_id="resp_1"),
    },
    "usage": chunks[-1].usage.total_tokens,
}
print(json.dumps(result))
