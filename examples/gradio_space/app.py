"""A chat page for Spaces-like hosting: gradio's ChatInterface over a VisualGLM model, in one file.

    pip install -r requirements.txt && python app.py

The packed model answers; VISUALGLM_MODEL selects another one. gradio serves the page and stores uploads, so use this
example for demonstrations only. `visualglm serve` has limits, keys and its own page, and does not need gradio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio

import visualglm

model = visualglm.load()


def answer(message: dict[str, Any], history: list[dict[str, Any]]) -> Iterator[str]:
    """Answer the message about the images shown so far; yield the text as it grows."""
    conversation = model.conversation()
    for path in [*images_of(history), *message["files"]]:
        conversation.show(path)
    text = ""
    for piece in conversation.stream(message["text"] or "Describe this picture."):
        text += piece
        yield text


def images_of(history: list[dict[str, Any]]) -> list[str]:
    """Return the paths of the images in the user's earlier messages."""
    parts = [part for turn in history if turn["role"] == "user" for part in turn["content"]]
    return [part["file"]["path"] for part in parts if part["type"] == "file"]


page = gradio.ChatInterface(answer, multimodal=True, title="VisualGLM")

if __name__ == "__main__":
    page.launch(server_name="127.0.0.1")
