"""Call upstream's API with the standard library: `python client_upstream.py IMAGE QUESTION ...`."""

import base64
import json
import os
import sys
import urllib.request
from pathlib import Path

url = os.environ.get("VISUALGLM_URL", "http://127.0.0.1:8080") + "/"
headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('VISUALGLM_KEY', 'none')}"}
image = base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()
history: list[list[str]] = []
for question in sys.argv[2:]:
    body = json.dumps({"image": image, "text": question, "history": history}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as reply:
        answer = json.load(reply)
    history = answer["history"]
    print(answer["result"])
