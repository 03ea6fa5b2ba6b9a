"""A chat page for Spaces-like hosting: gradio's ChatInterface over a VisualGLM model, in one file.

    pip install -r requirements.txt && python app.py

The packed model answers; VISUALGLM_MODEL names another one. gradio serves the page and stores uploads: this example is for
demonstrations. `visualglm serve` has limits, keys and its own page, and needs no gradio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio

import visualglm

model = visualglm.load()


def answer(message: dict[str, Any], history: list[dict[str, Any]]) -> Iterator[str]:
    """Answer the message, about the images shown so far, piece by piece."""
    conversation = model.conversation()
    for turn in history:
        if isinstance(turn["content"], (tuple, list)) and turn["role"] == "user":
            conversation.show(turn["content"][0])
    for file in message.get("files", []):
        conversation.show(file)
    text = ""
    for piece in conversation.stream(message["text"] or "描述这张图片。"):
        text += piece
        yield text


page = gradio.ChatInterface(answer, multimodal=True, title="VisualGLM", type="messages")

if __name__ == "__main__":
    page.launch(server_name="127.0.0.1")
