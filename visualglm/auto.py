"""Register our classes with transformers' Auto classes, once, on import.

`AutoConfig`, `AutoModel` and its variants in `AUTO_MODELS`, `AutoTokenizer`, `AutoImageProcessor` and `AutoProcessor`
then open a converted folder, THUDM/visualglm-6b's own files and the packed model, whether `trust_remote_code` is unset,
False or True. They never run the checkpoint's code.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
)
from transformers.models.auto.image_processing_auto import (
    AutoImageProcessor,
)  # transformers 5.16 exports it at the top only with torchvision
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

from .model import VisualGLMForConditionalGeneration
from .network.configuration import ChatGLMConfig, VisualGLMConfig
from .preprocessing.images import VisualGLMImageProcessor
from .preprocessing.processor import VisualGLMProcessor
from .preprocessing.tokenizer import ChatGLMTokenizer

AUTO_MODELS = (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
)


def register() -> None:
    """Register all classes; a second call changes nothing.

    `model_type: chatglm` is read by `ChatGLMConfig`, which returns a `VisualGLMConfig`, so the other classes are
    registered for that one only.
    """
    AutoConfig.register(VisualGLMConfig.model_type, VisualGLMConfig, exist_ok=True)
    AutoConfig.register(ChatGLMConfig.model_type, ChatGLMConfig, exist_ok=True)
    for auto_class in AUTO_MODELS:
        auto_class.register(VisualGLMConfig, VisualGLMForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(
        VisualGLMConfig, image_processor_classes={"pil": VisualGLMImageProcessor}, exist_ok=True
    )
    AutoProcessor.register(VisualGLMConfig, VisualGLMProcessor, exist_ok=True)
    # Registered by name, because for a class registered by configuration AutoTokenizer prefers the checkpoint's own
    # code if trust_remote_code is True. The table is not documented; tests/test_auto.py checks it.
    REGISTERED_TOKENIZER_CLASSES["ChatGLMTokenizer"] = ChatGLMTokenizer


register()
