"""List questions that ask for a description of an image."""

from __future__ import annotations

from typing import Literal

DEFAULT_QUESTIONS = {"zh": "描述这张图片。", "en": "Describe this picture."}
"""Asked about an image when the user asks nothing."""

DESCRIBE_QUESTIONS: dict[Literal["zh", "en"], tuple[str, ...]] = {
    "zh": (
        "描述这张图片。",
        "描述一下这张图片。",
        "请描述这张图。",
        "请描述图片内容。",
        "详细描述这张图片。",
        "介绍一下这张图。",
        "说说这张图片。",
        "描述图片",
        "这张图片画了什么？请描述。",
        "图片的内容是什么？",
    ),
    "en": (
        "Describe the picture.",
        "Describe this image.",
        "Please describe the picture.",
        "Describe what you see.",
        "Tell me about this picture.",
        "Can you describe the image?",
        "Describe the image in detail.",
        "Give a description of the picture.",
        "describe this picture",
        "Caption this image.",
    ),
}
"""Questions to which an image's caption is the answer."""
