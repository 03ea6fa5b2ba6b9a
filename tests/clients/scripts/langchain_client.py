"""LangChain's ChatOpenAI: invoke and stream, by chat completions and by responses, a follow-up, and errors."""

import base64
import json
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

url, image, question, following = sys.argv[1:]
data = base64.b64encode(Path(image).read_bytes()).decode()
given = {"model": "visualglm-mini", "base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
chat, responses = ChatOpenAI(**given), ChatOpenAI(**given, use_responses_api=True)
asked = HumanMessage([{"type": "image", "base64": data, "mime_type": "image/png"}, {"type": "text", "text": question}])
plain = chat.invoke([asked])
answered = responses.invoke([asked])


def error_of(model, messages):
    try:
        model.invoke(messages)
    except Exception as error:
        return [kind.__name__ for kind in type(error).__mro__ if "Overflow" in kind.__name__]


too_long = [SystemMessage("long " * 5000), HumanMessage("?")]
result = {
    "answers": [
        plain.text,
        "".join(chunk.text for chunk in chat.stream([asked])),
        answered.text,
        "".join(chunk.text for chunk in responses.stream([asked])),
    ],
    "followed": [
        chat.invoke([asked, plain, HumanMessage(following)]).text,
        responses.invoke([asked, answered, HumanMessage(following)]).text,
    ],
    "errors": {"too_long": error_of(chat, too_long), "responses_too_long": error_of(responses, too_long)},
}
print(json.dumps(result))
