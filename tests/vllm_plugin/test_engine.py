"""VisualGLM inside vLLM: the same greedy tokens as transformers, however requests are batched."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .conftest import DIALOGUES, FOLDER, NEW_TOKENS, SAMPLES, Answer, Oracle, assistant, check, data_url, user

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import BeamSearchParams

from visualglm.preprocessing.tokenizer import ChatGLMTokenizer
from visualglm.vllm_plugin.detokenizer import ChatGLMDetokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[..., Any]]:
    """Open engines in this process, one at a time."""
    running: list[Any] = []

    def start(**options: Any) -> Any:
        running.clear()
        gc.collect()
        running.append(LLM(str(FOLDER), dtype="float32", **options))
        return running[0]

    yield start
    running.clear()


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("Yes! It is a dog!", "dog!", "Yes! It is a "),
        ("There is a moon?", "?", "There is a moon"),
        ("有一条鱼，对吗?", "？", "有一条鱼，对吗"),
        ("a b", "b", "a "),
        ("a b", "c", "a b"),
    ],
)
@pytest.mark.parametrize("delta", [True, False])
def test_a_stop_string_at_the_very_end_is_cut(text: str, stop: str, shown: str, delta: bool) -> None:
    """Text that the decoder holds back may complete a stop string."""
    tokenizer = ChatGLMTokenizer.from_pretrained(FOLDER)
    for ids, ended in ((tokenizer.encode_plain(text), False), ([*tokenizer.encode_plain(text), 3], True)):
        request = SimpleNamespace(sampling_params=SamplingParams(stop=[stop]))
        detokenizer, pieces = ChatGLMDetokenizer(tokenizer, request), []
        for place, index in enumerate(ids):
            last = place == len(ids) - 1
            stopped = detokenizer.update([index], ended and last)
            pieces.append(detokenizer.get_next_output_text(last or stopped is not None, delta))
            if stopped is not None:
                break
        assert ("".join(pieces) if delta else pieces[-1]) == shown


@pytest.fixture(scope="module")
def llm(started: Callable[..., Any]) -> Any:
    """Return an engine with default flags."""
    return started()


def test_default_flags_turn_off_what_would_split_a_prompt(llm: Any) -> None:
    config = llm.llm_engine.vllm_config
    assert not config.cache_config.enable_prefix_caching and not config.scheduler_config.enable_chunked_prefill


def test_a_ragged_batch_equals_transformers(llm: Any, expected: dict[str, Answer]) -> None:
    """0 to 3 images, many turns, both languages, long and short prompts, in one batch."""
    outputs = llm.chat(list(DIALOGUES.values()), GREEDY, use_tqdm=False)
    for output, (name, answer) in zip(outputs, expected.items(), strict=True):
        check(output, answer)
        assert output.outputs[0].text == answer.text, name


def test_again_and_with_a_longer_dialogue_equals_transformers(
    llm: Any, oracle: Oracle, expected: dict[str, Answer]
) -> None:
    """The same beginning again: image embeddings are cached, keys and values are not."""
    first = DIALOGUES["one, Chinese"]
    longer = [*first, assistant(expected["one, Chinese"].text), user("What is the background?")]
    outputs = llm.chat([first, longer], GREEDY, use_tqdm=False)
    check(outputs[0], expected["one, Chinese"])
    check(outputs[1], oracle.answer(longer))


def test_a_text_prompt_is_the_processors(llm: Any, oracle: Oracle) -> None:
    """`LLM.generate` with a question and an image equals a single turn."""
    from visualglm.preprocessing.images import open_image

    prompt = {"prompt": "What is this?", "multi_modal_data": {"image": open_image(SAMPLES[0])}}
    check(llm.generate(prompt, GREEDY, use_tqdm=False)[0], oracle.answer([user("What is this?", SAMPLES[0])]))


def test_ids_without_the_end_of_a_prompt_are_refused(llm: Any) -> None:
    with pytest.raises(ValueError, match="gMASK"):
        llm.generate({"prompt_token_ids": [5, 6, 7]}, GREEDY, use_tqdm=False)


def test_beam_search_which_prolongs_prompts_is_refused(llm: Any, expected: dict[str, Answer]) -> None:
    """The engine gets its beams as prompts with a part of the answer after `<sop>`."""
    prompt = {"prompt_token_ids": expected["no picture"].prompt}
    with pytest.raises(ValueError, match="Beam search"):
        llm.beam_search([prompt], BeamSearchParams(beam_width=2, max_tokens=3))


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/a.png", "https://example.org/a.png", "file:///etc/hostname", "/etc/hostname", str(SAMPLES[0])],
)
def test_nothing_is_opened_that_a_message_names(llm: Any, url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(ValueError, match=r"image|image"):
        llm.chat([{"role": "user", "content": [part, {"type": "text", "text": "?"}]}], GREEDY, use_tqdm=False)


def test_preempted_requests_equal_transformers(started: Callable[..., Any], expected: dict[str, Answer]) -> None:
    """The cache is too small for all: preempted requests are prefilled again, with their answer so far."""
    small = started(max_model_len=512, block_size=32, num_gpu_blocks_override=24, disable_log_stats=False)
    fitting = [name for name in DIALOGUES if len(expected[name].prompt) <= 512 - NEW_TOKENS] * 2
    outputs = small.chat([DIALOGUES[name] for name in fitting], GREEDY, use_tqdm=False)
    for name, output in zip(fitting, outputs, strict=True):
        check(output, expected[name])
    preempted = [metric.value for metric in small.get_metrics() if metric.name == "vllm:num_preemptions"]
    assert preempted and preempted[0] > 0


def test_a_local_file_is_read_only_below_the_allowed_folder(started: Callable[..., Any], tmp_path: Path) -> None:
    opened = started(allowed_local_media_path=str(SAMPLES[0].parent), max_model_len=512)
    by_file, by_data, outside = (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]}]
        for url in (SAMPLES[0].as_uri(), data_url(SAMPLES[0]), f"{SAMPLES[0].parent.as_uri()}/../config.json")
    )
    said = opened.chat([by_file, by_data], GREEDY, use_tqdm=False)
    assert said[0].outputs[0].token_ids == said[1].outputs[0].token_ids
    with pytest.raises(ValueError, match="does not read this file"):
        opened.chat(outside, GREEDY, use_tqdm=False)


@pytest.mark.parametrize("flag", ["enable_prefix_caching", "enable_chunked_prefill"])
def test_forced_flags_are_refused(flag: str) -> None:
    with pytest.raises(ValueError, match=flag.replace("_", "-")):
        EngineArgs(model=str(FOLDER), **{flag: True}).create_engine_config()


def test_a_vocabulary_in_8_bits_is_one_sentence(quantized_folder: Path) -> None:
    with pytest.raises(ValueError, match="quantize again without --quantize-vision and --quantize-vocabulary"):
        EngineArgs(model=str(quantized_folder)).create_engine_config()


def test_upstreams_raw_folder_is_to_be_converted() -> None:
    raw = Path(__file__).parents[1] / "reference" / "hf"
    with pytest.raises(ValueError, match="visualglm convert"):
        EngineArgs(model=str(raw)).create_engine_config()
