"""litellm: completion and responses, plain and streamed, a follow-up, and the errors it maps to classes of its own."""

import base64
import json
import sys
from pathlib import Path

import litellm

url, image, question, following = sys.argv[1:]
data_url = f"data:image/png;base64,{base64.b64encode(Path(image).read_bytes()).decode()}"
given = {"model": "openai/visualglm-mini", "api_base": f"{url}/v1", "api_key": "none", "num_retries": 0}
shown = {"type": "image_url", "image_url": {"url": data_url}}
messages = [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]
plain = litellm.completion(messages=messages, **given).choices[0].message
stream = litellm.completion(messages=messages, stream=True, **given)
turns = [*messages, plain.model_dump(), {"role": "user", "content": following}]
content = [{"type": "input_image", "image_url": data_url}, {"type": "input_text", "text": question}]
items = [{"role": "user", "content": content}]
whole = litellm.responses(input=items, **given)
events = litellm.responses(input=items, stream=True, **given)


def text_of(response):
    return "".join(part.text for item in response.output if item.type == "message" for part in item.content)


def error_of(**changed):
    try:
        litellm.completion(**{**given, "messages": messages, **changed})
    except Exception as error:
        return [type(error).__name__]


result = {
    "answers": [
        plain.content,
        "".join(chunk.choices[0].delta.content or "" for chunk in stream),
        text_of(whole),
        "".join(event.delta for event in events if event.type == "response.output_text.delta"),
    ],
    "followed": [litellm.completion(messages=turns, **given).choices[0].message.content],
    "errors": {
        "too_long": error_of(messages=[{"role": "user", "content": "long " * 5000}]),
        "model": error_of(model="openai/gpt-4o"),
    },
}
print(json.dumps(result))
