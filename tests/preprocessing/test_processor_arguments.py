"""The processor's keyword arguments: grouped, unknown, invalid, and those of `from_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor

import visualglm.auto  # noqa: F401  # registers
from visualglm.errors import PromptError, UsageError
from visualglm.preprocessing.processor import VisualGLMProcessor

REFERENCE = Path(__file__).parents[1] / "reference"
PROCESSOR = VisualGLMProcessor.from_pretrained(REFERENCE / "hf")
RGB = Image.open(REFERENCE / "images" / "rgb.png")
ASKED = [{"role": "user", "content": [{"type": "image", "image": RGB}, {"type": "text", "text": "描述这张图片。"}]}]


def call_processor(images: Any, **options: Any) -> Any:
    return PROCESSOR(text="描述这张图片。", images=images, **options)


def call_chat_template(images: Any, **options: Any) -> Any:
    messages = ASKED if images else [{"role": "user", "content": "你好"}]
    return PROCESSOR.apply_chat_template(messages, tokenize=True, return_dict=True, **options)


@pytest.mark.parametrize("call", [call_processor, call_chat_template])
@pytest.mark.parametrize("images", [RGB, None])
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"paddin": True}, UsageError, "Did you mean 'padding'"),
        ({"do_normalise": False}, UsageError, "Did you mean 'do_normalize'"),
        ({"do_sample": False}, UsageError, "do_sample is an argument of generate.*generate_kwargs"),
        ({"text_kwargs": {"langage": "zh"}}, UsageError, "Did you mean 'language'"),
        ({"images_kwargs": {"padding_side": "left"}}, UsageError, "no argument 'padding_side'"),
        ({"common_kwargs": {"return_tensor": "pt"}}, UsageError, "Did you mean 'return_tensors'"),
        ({"padding": True, "text_kwargs": {"padding": False}}, UsageError, "two times"),
        ({"padding": "widest"}, UsageError, "PaddingStrategy"),
        ({"return_offsets_mapping": True}, UsageError, "does not support return_offsets_mapping"),
        ({"truncation": True}, PromptError, "never cut"),
        ({"text_kwargs": {"truncation": "longest_first"}}, PromptError, "never cut"),
    ],
)
def test_invalid_arguments_are_refused_with_and_without_images(
    call: Any, images: Any, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        call(images, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("call", [call_processor, call_chat_template])
@pytest.mark.parametrize(
    "options",
    [
        {"do_normalize": False, "padding": "max_length", "max_length": 70, "return_tensors": "pt"},
        {
            "images_kwargs": {"do_normalize": False},
            "text_kwargs": {"padding": "max_length", "max_length": 70},
            "common_kwargs": {"return_tensors": "pt"},
        },
    ],
)
def test_arguments_may_be_grouped(call: Any, options: dict[str, Any]) -> None:
    inputs = call(RGB, **options, truncation=False)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (1, 70)
    assert inputs["pixel_values"].min() >= 0 and inputs["pixel_values"].max() <= 1
    assert call(None, **options)["input_ids"].shape == (1, 70)


@pytest.mark.parametrize("auto", [AutoProcessor, VisualGLMProcessor])
def test_from_pretrained_passes_arguments_to_the_components(auto: Any) -> None:
    size = {"height": 28, "width": 28}
    opened = auto.from_pretrained(REFERENCE / "hf", do_normalize=False, size=size, padding_side="right")
    assert opened(images=RGB, return_tensors="pt")["pixel_values"].shape == (1, 3, 28, 28)
    assert not opened.image_processor.do_normalize
    assert opened(text=["你好", "a"])["input_ids"][1][-1] == opened.tokenizer.pad_token_id
    assert auto.from_pretrained(REFERENCE / "hf", image_length=4).image_length == 4
    with pytest.raises(UsageError, match="Did you mean 'padding_side'"):
        auto.from_pretrained(REFERENCE / "hf", padding_sid="right")
