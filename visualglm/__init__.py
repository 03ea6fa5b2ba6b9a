"""Talk about images in Chinese and English. Public names, imported on first use.

    image -- images --> vision --> qformer --> placeholder tokens of the prompt --> glm --> answer

`import visualglm.auto` registers the classes with transformers' Auto classes; this package alone registers nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conversation import Conversation, VisualGLM, load
    from .errors import VisualGLMError
    from .hub.local_folder import packed_model
    from .inference.answer import Answer
    from .model import VisualGLMForConditionalGeneration
    from .network.configuration import QFormerConfig, VisionConfig, VisualGLMConfig
    from .preprocessing.images import VisualGLMImageProcessor
    from .preprocessing.processor import VisualGLMProcessor
    from .preprocessing.tokenizer import ChatGLMTokenizer

__version__ = "0.1.0"

_HOMES = {
    "Answer": "inference.answer",
    "ChatGLMTokenizer": "preprocessing.tokenizer",
    "Conversation": "conversation",
    "QFormerConfig": "network.configuration",
    "VisionConfig": "network.configuration",
    "VisualGLM": "conversation",
    "VisualGLMConfig": "network.configuration",
    "VisualGLMError": "errors",
    "VisualGLMForConditionalGeneration": "model",
    "VisualGLMImageProcessor": "preprocessing.images",
    "VisualGLMProcessor": "preprocessing.processor",
    "load": "conversation",
    "packed_model": "hub.local_folder",
}

__all__ = [
    "Answer",
    "ChatGLMTokenizer",
    "Conversation",
    "QFormerConfig",
    "VisionConfig",
    "VisualGLM",
    "VisualGLMConfig",
    "VisualGLMError",
    "VisualGLMForConditionalGeneration",
    "VisualGLMImageProcessor",
    "VisualGLMProcessor",
    "__version__",
    "load",
    "packed_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
