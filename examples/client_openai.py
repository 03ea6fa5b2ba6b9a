"""Send an image and a question to `visualglm serve` with OpenAI's client: `python client_openai.py IMAGE QUESTION`.

VISUALGLM_URL (default http://127.0.0.1:8080) is the server's address, VISUALGLM_KEY the API key.
"""

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI

image, question = Path(sys.argv[1]), sys.argv[2]
url = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
client = OpenAI(
    base_url=os.environ.get("VISUALGLM_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("VISUALGLM_KEY", "none"),
)
content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
model = client.models.list().data[0].id
for chunk in client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
