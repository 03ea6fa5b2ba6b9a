"""The processor: text, images and messages to inputs, ids to answers, files, Auto classes, pipeline."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.16's public name wants torchvision

import visualglm.auto  # registers
from visualglm.errors import ImageError, PromptError, TokenizerError, UsageError
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig
from visualglm.preprocessing.chat_messages import CHAT_TEMPLATE
from visualglm.preprocessing.images import VisualGLMImageProcessor
from visualglm.preprocessing.processor import VisualGLMProcessor
from visualglm.preprocessing.prompt import Turn, build_prompt, build_training_row, describe_dropped_turns
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

REFERENCE = Path(__file__).parents[1] / "reference"
ARRAYS = np.load(REFERENCE / "reference.npz")
CASES: dict[str, Any] = json.loads((REFERENCE / "cases.json").read_text(encoding="utf-8"))
PROCESSOR = VisualGLMProcessor.from_pretrained(REFERENCE / "hf")
RGB = Image.open(REFERENCE / "images" / "rgb.png")
SLOT = PROCESSOR.image_token_id
IMG_ZH: list[int] = [SLOT if index == 0 else index for index in ARRAYS["img_zh/input_ids"][0].tolist()]
ASKED = [{"role": "user", "content": [{"type": "image", "image": RGB}, {"type": "text", "text": "描述这张图片。"}]}]


def rows(ids: Any) -> list[list[int]]:
    return torch.as_tensor(ids).tolist()


def test_all_call_styles_give_upstreams_prompt() -> None:
    text = PROCESSOR.apply_chat_template(ASKED, add_generation_prompt=True)
    assert text == "<img></img>问：描述这张图片。\n答："
    for inputs in (
        PROCESSOR(text="描述这张图片。", images=RGB, return_tensors="pt"),
        PROCESSOR(text="问：描述这张图片。\n答：", images=[RGB], return_tensors="pt"),
        PROCESSOR(text=text, images=[[RGB]], return_tensors="pt"),
        PROCESSOR.apply_chat_template(ASKED, tokenize=True, return_dict=True, return_tensors="pt"),
        PROCESSOR.apply_chat_template([ASKED], tokenize=True, return_dict=True, return_tensors="pt"),
    ):
        assert rows(inputs["input_ids"]) == [IMG_ZH]
        assert inputs["attention_mask"].all() and set(inputs) == set(PROCESSOR.model_input_names)
        assert np.abs(inputs["pixel_values"].numpy() - ARRAYS["img_zh/pixel_values"]).max() <= 1e-6
    assert PROCESSOR.apply_chat_template(ASKED, tokenize=True) == [IMG_ZH]


def test_text_without_images_has_upstreams_ids() -> None:
    assert PROCESSOR(text="晚上睡不着应该怎么办")["input_ids"] == ARRAYS["glm_single/input_ids"].tolist()
    assert PROCESSOR(text="你好", add_special_tokens=False)["input_ids"] == [[5, 114, 221]]


def test_a_batch_is_padded_on_the_left() -> None:
    inputs = PROCESSOR.apply_chat_template(
        [ASKED, [{"role": "user", "content": "你好"}]], tokenize=True, return_dict=True, return_tensors="pt"
    )
    short = ARRAYS["txt_zh/input_ids"][0].tolist()
    assert rows(inputs["input_ids"]) == [IMG_ZH, [3] * (len(IMG_ZH) - len(short)) + short]
    assert inputs["attention_mask"].sum(1).tolist() == [len(IMG_ZH), len(short)]
    assert inputs["pixel_values"].shape == (1, 3, 56, 56)
    ragged = PROCESSOR(text=["你好", "a"], padding=False)
    assert [len(row) for row in ragged["input_ids"]] == [len(row) for row in ragged["attention_mask"]] == [5, 3]
    fixed = PROCESSOR(text=["你好"], padding="max_length", max_length=9, return_tensors="np")
    assert fixed["input_ids"].shape == fixed["attention_mask"].shape == (1, 9)


def test_images_alone() -> None:
    inputs = PROCESSOR(images=[RGB, RGB], return_tensors="pt")
    assert set(inputs) == {"pixel_values"}
    assert inputs["pixel_values"].shape == (2, 3, 56, 56)


@pytest.mark.parametrize(
    ("texts", "images", "slots"),
    [
        (["a", "b"], [[RGB], []], [1, 0]),
        (["a", "b"], [[], [RGB, RGB]], [0, 2]),
        (["a", "b"], [RGB, RGB], [1, 1]),
        (["<img></img>a", "<img></img><img></img>b"], [RGB] * 3, [1, 2]),
        (["<img></img>a", "b"], RGB, [1, 0]),
        (["<img></img>a"], None, [0]),
    ],
)
def test_images_are_assigned_to_texts(texts: list[str], images: Any, slots: list[int]) -> None:
    inputs = PROCESSOR(text=texts, images=images)
    assert [row.count(SLOT) for row in inputs["input_ids"]] == [32 * count for count in slots]
    assert len(inputs.get("pixel_values", [])) == sum(slots)


@pytest.mark.parametrize(
    ("texts", "images"), [(["a", "b"], [RGB]), ("<img></img><img></img>a", RGB), (["<img></img>a", "b"], [RGB] * 2)]
)
def test_unassignable_images_are_refused(texts: Any, images: Any) -> None:
    with pytest.raises(PromptError, match="images"):
        PROCESSOR(text=texts, images=images)


def test_the_template_writes_the_prompt_as_text() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "image": RGB}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat,\n  black."}]},
        {"role": "user", "content": "And"},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "you?"}],
        },
    ]
    text = PROCESSOR.apply_chat_template(messages)
    assert text == "<img></img>Q:Be brief.\nWhat?\nA:A cat,\n  black.\n<img></img>Q:And\nyou?\nA:"
    turns = [Turn("Be brief.\nWhat?", "A cat,\n  black.", 1), Turn("And\nyou?", None, 1)]
    built = build_prompt(PROCESSOR.tokenizer, turns, language="en", image_token_id=SLOT, image_length=32)
    assert PROCESSOR(text=text, images=[RGB, RGB])["input_ids"] == [built.input_ids]
    assert PROCESSOR.apply_chat_template(messages, language="zh").startswith("<img></img>问：Be")
    assert PROCESSOR.apply_chat_template([messages, ASKED])[1].endswith("答：")


def test_images_are_opened_and_urls_are_not(tmp_path: Path) -> None:
    def ask(part: dict[str, Any]) -> Any:
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "描述这张图片。"}]}]
        return PROCESSOR.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")

    path = str(REFERENCE / "images" / "rgb.png")
    for part in ({"type": "image", "path": path}, {"type": "image_url", "image_url": {"url": path}}):
        assert np.abs(ask(part)["pixel_values"].numpy() - ARRAYS["img_zh/pixel_values"]).max() <= 1e-6
    for url in ("http://127.0.0.1:9/x.png", "file:///etc/passwd"):
        with pytest.raises(ImageError, match="URL"):
            ask({"type": "image_url", "image_url": {"url": url}})
    with pytest.raises(PromptError, match="no source"):
        ask({"type": "image"})


def test_dropped_turns_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    messages = [
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "二"},
        {"role": "user", "content": "三"},
    ]
    with caplog.at_level(logging.WARNING):
        short = PROCESSOR.apply_chat_template(messages, tokenize=True, max_tokens=14)
    assert short == PROCESSOR.apply_chat_template(messages[2:], tokenize=True)
    assert describe_dropped_turns(1) in caplog.text


def test_an_answer_is_continued_after_sop() -> None:
    begun = [*ASKED, {"role": "assistant", "content": [{"type": "text", "text": "图中"}]}]
    ids = PROCESSOR.apply_chat_template(begun, tokenize=True, continue_final_message=True)
    assert ids == [IMG_ZH + PROCESSOR.tokenizer.encode_plain("图中")]


@pytest.mark.parametrize(
    "options",
    [
        {"tokenize": True, "tools": [{}]},
        {"max_tokens": 9},
        {"continue_final_message": True},
    ],
)
def test_unsupported_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PromptError):
        PROCESSOR.apply_chat_template(ASKED, **options)


@pytest.mark.parametrize("tokenize", [True, False])
@pytest.mark.parametrize(
    "messages", [[], [{"role": "critic", "content": "x"}], [{"role": "assistant", "content": "x"}], [[]]]
)
def test_invalid_messages_are_refused(messages: Any, tokenize: bool) -> None:
    with pytest.raises(PromptError):
        PROCESSOR.apply_chat_template(messages, tokenize=tokenize)


def test_truncation_video_and_empty_calls_are_refused() -> None:
    with pytest.raises(PromptError, match="never cut"):
        PROCESSOR(text="你好", truncation=True, max_length=3)
    with pytest.raises(PromptError, match="nothing to process"):
        PROCESSOR()
    with pytest.raises(PromptError, match="no video"):
        PROCESSOR(text="你好", videos=[RGB])  # type: ignore[arg-type]


def test_a_blank_question_is_refused_by_every_call() -> None:
    messages = [{"role": "user", "content": [{"type": "image", "image": RGB}, {"type": "text", "text": " \u3000"}]}]
    with pytest.raises(PromptError, match="blank"):
        PROCESSOR(text=" ", images=RGB)
    for tokenize in (False, True):
        with pytest.raises(PromptError, match="blank"):
            PROCESSOR.apply_chat_template(messages, tokenize=tokenize)


@pytest.mark.parametrize("side", ["left", "right"])
def test_answered_conversations_become_training_rows(side: str) -> None:
    answered = [*ASKED, {"role": "assistant", "content": "一只猫。"}]
    longer = [*answered, {"role": "user", "content": "真的？"}, {"role": "assistant", "content": "是的，一只猫。"}]
    inputs = PROCESSOR.apply_chat_template(
        [answered, longer],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
        padding_side=side,
    )
    assert inputs["assistant_masks"].shape == inputs["input_ids"].shape
    turns = [Turn("描述这张图片。", "一只猫。", 1), Turn("真的？", "是的，一只猫。")]
    for row, expected in enumerate((turns[:1], turns)):
        kept = inputs["attention_mask"][row].bool()
        ids, labels = PROCESSOR.build_training_row(expected)
        assert inputs["input_ids"][row][kept].tolist() == ids
        masked = inputs["input_ids"].where(inputs["assistant_masks"].bool(), -100)[row]
        assert masked[kept].tolist() == labels and (masked[~kept] == -100).all()


def test_an_open_question_has_no_assistant_tokens() -> None:
    inputs = PROCESSOR.apply_chat_template(ASKED, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assert inputs["assistant_masks"] == [[0] * len(IMG_ZH)]
    answered = [*ASKED, {"role": "assistant", "content": "猫"}]
    with pytest.raises(PromptError, match="ends with an answer"):
        PROCESSOR.apply_chat_template(answered, tokenize=True, add_generation_prompt=True)
    with pytest.raises(PromptError, match="return_assistant_tokens_mask"):
        PROCESSOR.apply_chat_template(
            answered, tokenize=True, return_assistant_tokens_mask=True, continue_final_message=True
        )


def test_another_template_is_rendered_by_transformers() -> None:
    template = "{% for m in messages %}<img></img>!{% endfor %}"
    assert PROCESSOR.apply_chat_template(ASKED, template) == "<img></img>!"
    inputs = PROCESSOR.apply_chat_template(ASKED, template, tokenize=True, return_dict=True, return_tensors="pt")
    assert rows(inputs["input_ids"])[0].count(SLOT) == 32
    for renderer in (PROCESSOR, PROCESSOR.tokenizer):
        with pytest.raises(UsageError, match="return_assistant_tokens_mask needs our own chat template"):
            renderer.apply_chat_template(
                ASKED, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )


def test_decode_removes_the_prompt() -> None:
    answer = PROCESSOR.tokenizer.encode_plain("图中有一只猫,很可爱")
    whole = [*IMG_ZH, *answer, PROCESSOR.tokenizer.eos_token_id, PROCESSOR.tokenizer.pad_token_id]
    for ids in (whole, answer, torch.tensor(whole)):
        assert PROCESSOR.decode(ids) == "图中有一只猫，很可爱"
    assert PROCESSOR.batch_decode(torch.tensor([whole, [3, *whole[:-1]]])) == ["图中有一只猫，很可爱"] * 2
    assert PROCESSOR.decode(IMG_ZH) == ""
    assert PROCESSOR.post_process_image_text_to_text([whole]) == ["图中有一只猫，很可爱"]


def test_saved_processors_open_again(tmp_path: Path) -> None:
    PROCESSOR.save_pretrained(tmp_path)
    for opened in (VisualGLMProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(opened, VisualGLMProcessor)
        assert (opened.image_token_id, opened.image_length) == (SLOT, 32)
        assert opened.chat_template == CHAT_TEMPLATE
        assert opened(text="描述这张图片。", images=RGB)["input_ids"] == [IMG_ZH]


def test_folders_without_image_settings_use_the_model_configuration(tmp_path: Path) -> None:
    shutil.copy(REFERENCE / "hf" / "ice_text.model", tmp_path)
    shutil.copy(REFERENCE / "sat" / "model_config.json", tmp_path)
    opened = VisualGLMProcessor.from_pretrained(tmp_path)
    assert (opened.image_token_id, opened.image_processor.size.height) == (SLOT, 56)
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"image_size": 28}, "image_token_id": 760}))
    opened = VisualGLMProcessor.from_pretrained(tmp_path)
    assert (opened.image_token_id, opened.image_processor.size.height) == (760, 28)
    VisualGLMImageProcessor(size={"height": 42, "width": 42}).save_pretrained(tmp_path)
    assert VisualGLMProcessor.from_pretrained(tmp_path).image_processor.size.height == 42
    (tmp_path / "ice_text.model").unlink()
    with pytest.raises(TokenizerError, match="no ice_text"):
        VisualGLMProcessor.from_pretrained(tmp_path)


def test_for_config_reads_image_size_and_placeholders() -> None:
    config = VisualGLMConfig(vocab_size=800, vision_config={"image_size": 28})
    made = VisualGLMProcessor.for_config(config, REFERENCE / "hf" / "ice_text.model")
    assert (made.image_token_id, made.image_length, made.image_processor.size.width) == (799, 32, 28)
    assert isinstance(VisualGLMProcessor.for_config(config, made.tokenizer).tokenizer, ChatGLMTokenizer)


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": False}, {"trust_remote_code": True}])
def test_auto_classes_open_upstreams_folder(options: dict[str, Any]) -> None:
    assert isinstance(AutoProcessor.from_pretrained(REFERENCE / "hf", **options), VisualGLMProcessor)
    assert isinstance(AutoTokenizer.from_pretrained(REFERENCE / "hf", **options), ChatGLMTokenizer)


def test_auto_classes_open_a_saved_folder(tmp_path: Path) -> None:
    VisualGLMConfig().save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), VisualGLMProcessor)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), ChatGLMTokenizer)
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), VisualGLMImageProcessor)


def test_the_pipeline_answers_chats(model: VisualGLMForConditionalGeneration) -> None:
    pipe = pipeline("image-text-to-text", model=model, processor=PROCESSOR)

    def ask(*inputs: Any, **options: Any) -> Any:
        greedy = {"do_sample": False, "repetition_penalty": 1.0, "min_length": 0, "max_new_tokens": 5}
        return pipe(*inputs, return_full_text=False, generate_kwargs=greedy, **options)

    expected = PROCESSOR.decode(CASES["greedy"]["img_zh"]["ids"][:5])
    assert ask(text=ASKED)[0]["generated_text"] == expected
    assert ask(RGB, text="描述这张图片。")[0]["generated_text"] == expected
    other = [{"role": "user", "content": [{"type": "image", "image": RGB}, {"type": "text", "text": "What?"}]}]
    both = ask(text=[ASKED, other], batch_size=2)
    assert [row[0]["generated_text"] for row in both] == [expected, ask(text=other)[0]["generated_text"]]


def test_nothing_else_builds_prompts_or_image_processors_by_hand() -> None:
    """The processor has the tokenizer, the placeholder tokens and the image size of its model."""
    package = Path(visualglm.__file__).parent
    files = {*package.rglob("*.py"), *(package.parent / "lab").rglob("visualglm_lab/**/*.py")}
    by_hand = re.compile(r"(?<!\.)\bbuild_(prompt|training_row)\(|VisualGLMImageProcessor\(size")
    offenders = {file.name for file in files if by_hand.search(file.read_text(encoding="utf-8"))}
    of_the_classifier = {"stem_features.py"}  # images for a network that is no model of ours
    assert offenders == {"prompt.py", "processor.py"} | of_the_classifier


@pytest.mark.parametrize("language", ["auto", "zh", "en"])
def test_build_prompt_passes_the_processors_settings(language: Any) -> None:
    turns = [Turn("一" * 30, "二", image_count=1), Turn("three?")]
    settings = {"language": language, "image_token_id": SLOT, "image_length": 32}
    assert PROCESSOR.build_prompt(turns, language) == build_prompt(PROCESSOR.tokenizer, turns, **settings)
    short = PROCESSOR.build_prompt(turns, language, max_tokens=60)
    assert short == build_prompt(PROCESSOR.tokenizer, turns, **settings, max_tokens=60) and short.dropped_turns == 1
    answered = [*turns[:1], Turn("three?", "four")]
    assert PROCESSOR.build_training_row(answered, language) == build_training_row(
        PROCESSOR.tokenizer, answered, **settings
    )
