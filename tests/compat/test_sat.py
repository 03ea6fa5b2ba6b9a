"""Upstream's sat interface: its README's snippet, the calls of its scripts, and its files."""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import visualglm
from visualglm.compat import sat
from visualglm.errors import CheckpointError, ImageError, UsageError
from visualglm.inference.image_features import encode_pixels
from visualglm.preprocessing.images import VisualGLMImageProcessor
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

from ..conftest import REFERENCE, Reference

pytestmark = pytest.mark.slow

PACKED = visualglm.packed_model()
FINE_TUNED = Path(__file__).parents[1] / "fine_tuned"
SAMPLE = sorted((PACKED / "samples").glob("*.png"))[0]
QUESTION = "描述这张图片。"
GREEDY = {"top_p": 0, "repetition_penalty": 1.0}


@pytest.fixture(scope="module")
def packed() -> tuple[Any, ChatGLMTokenizer]:
    model, _ = sat.VisualGLMModel.from_pretrained(PACKED, argparse.Namespace(skip_init=True, device="cpu"))
    model.add_mixin("auto-regressive", sat.CachedAutoregressiveMixin())
    return model, ChatGLMTokenizer.from_pretrained(PACKED)


@pytest.fixture(scope="module")
def referenced(tokenizer: ChatGLMTokenizer) -> tuple[Any, ChatGLMTokenizer]:
    return sat.VisualGLMModel.from_pretrained(REFERENCE / "sat", argparse.Namespace(device="cpu"))[0], tokenizer


@pytest.mark.parametrize("folder", [PACKED, REFERENCE / "sat"], ids=["packed", "sat"])
def test_the_snippet_of_upstreams_readme(folder: Path, tmp_path: Path) -> None:
    """Only its import lines are changed; SAT_HOME contains the model, as sat's downloads do."""
    home = tmp_path / "home"
    shutil.copytree(folder, home / "visualglm-6b")
    shutil.copyfile(REFERENCE / "hf" / "ice_text.model", tmp_path / "ice_text.model")
    vocabulary = folder if folder == PACKED else tmp_path
    program = f"""
import argparse
from transformers import AutoTokenizer
from visualglm.compat.sat import chat, VisualGLMModel
tokenizer = AutoTokenizer.from_pretrained({str(home / "chatglm-6b")!r}, trust_remote_code=True)
model, model_args = VisualGLMModel.from_pretrained('visualglm-6b', args=argparse.Namespace(fp16=True, skip_init=True))
from visualglm.compat.sat import CachedAutoregressiveMixin
model.add_mixin('auto-regressive', CachedAutoregressiveMixin())
image_path = {str(SAMPLE)!r}
response, history, cache_image = chat(image_path, model, tokenizer, "Describe this image.", history=[], max_length=90)
print(response)
response, history, cache_image = chat(None, model, tokenizer, "Where could it be?", history=history, image=cache_image)
print(response)
end = len(history), tuple(cache_image.shape), cache_image.dtype, model.dtype, model_args.image_length
print(*end, file=open('end', 'w'))
"""
    chatglm = home / "chatglm-6b"
    chatglm.mkdir()
    for name in ("ice_text.model", "tokenizer_config.json"):
        shutil.copyfile((vocabulary if name.endswith("model") else PACKED) / name, chatglm / name)
    environment = {"SAT_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""}
    environment["PYTHONPATH"] = str(PACKED.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shape = (1, 3, *[visualglm.VisualGLMConfig.from_pretrained(PACKED).vision.image_size] * 2)
    if folder == PACKED:
        expected = f"2 {shape} torch.float16 torch.float16 "
        assert (tmp_path / "end").read_text().startswith(expected)


def test_sats_ids_and_logits(referenced: Any, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt of `chat` is upstream's, with pad ids as placeholders, and so are the logits."""
    model, tokenizer = referenced
    asked: dict[str, Any] = {}
    generate = model.generate

    def noted(**kwargs: Any) -> Any:
        asked.update(kwargs)
        return generate(**kwargs)

    monkeypatch.setattr(model, "generate", noted)
    image = REFERENCE / "images" / "rgb.png"
    _, _, pixels = sat.chat(str(image), model, tokenizer, "Describe the image.", english=True, max_length=70, **GREEDY)
    ids = asked["input_ids"].clone()
    ids[ids == model.config.image_token_id] = tokenizer.pad_token_id
    assert torch.equal(ids, reference.tensor("sat_en_img", "input_ids"))
    assert torch.equal(pixels, reference.tensor("sat_en_img", "pixel_values").half())
    with torch.no_grad():
        logits = model(asked["input_ids"], pixel_values=reference.tensor("sat_en_img", "pixel_values")).logits[:, -1]
    expected = reference.tensor("sat_en_img", "logits_sat_fp32_exact_inv_freq").reshape(logits.shape)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("arguments", [{}, {"top_p": 0.4, "top_k": 100, "temperature": 0.8}, {"top_k": 0}])
def test_sats_sampling_token_by_token(packed: Any, arguments: dict[str, Any]) -> None:
    """With the same seed, `chat` samples the tokens of a loop that follows the code of sat's `BaseStrategy`."""
    model, tokenizer = packed
    numbers = {"top_p": 0.7, "top_k": 30, "temperature": 0.95, "repetition_penalty": 1.2, **arguments}
    invalid = [slice(20, 30)]
    text, _, pixels = sat.chat(
        str(SAMPLE), model, tokenizer, QUESTION, max_length=80, invalid_slices=invalid, seed=5, **arguments
    )
    prompt = [*tokenizer.encode_plain("<img>"), *[model.config.image_token_id] * model.image_length]
    prompt += [*tokenizer.encode_plain(f"</img>问：{QUESTION}\n答："), tokenizer.gmask_token_id, tokenizer.bos_token_id]
    said: list[int] = []
    torch.manual_seed(5)
    while len(prompt) + len(said) < 80 and said[-1:] != [tokenizer.eos_token_id]:
        with torch.no_grad():
            row = torch.tensor([prompt + said])
            logits = model(row, pixel_values=pixels.float(), use_cache=False).logits[:, -1].float()
        said.append(drawn(logits, said, invalid, **numbers))
    assert text == visualglm.preprocessing.tokenizer.process_response(
        tokenizer.decode([i for i in said if i != tokenizer.eos_token_id])
    )


def drawn(
    logits: torch.Tensor, said: list[int], invalid: list[slice], top_p: float, top_k: int, temperature: float,
    repetition_penalty: float,
) -> int:  # fmt: skip
    penalty = torch.ones_like(logits)
    penalty[0, said] = repetition_penalty
    logits = logits / (penalty * temperature)
    for ids in invalid:
        logits[..., ids] = -65504
    if top_k > 0:
        logits[logits < torch.topk(logits, min(top_k, logits.shape[-1]))[0][..., -1, None]] = -65504
        ordered, order = logits.sort(descending=True)
        beyond = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1) > top_p
        logits[0, order[0][beyond[0]]] = -65504
    return int(torch.multinomial(F.softmax(logits, dim=-1), num_samples=1))


def test_the_second_turn_reads_no_file(packed: Any, tmp_path: Path) -> None:
    """It uses `cache_image`, and answers like a model that gets the image and the dialogue."""
    model, tokenizer = packed
    image = tmp_path / "picture.png"
    shutil.copyfile(SAMPLE, image)
    _, history, cache = sat.chat(str(image), model, tokenizer, QUESTION, **GREEDY)
    image.unlink()
    second, history, again = sat.chat(
        None, model, tokenizer, "它是什么颜色的？", history=history, image=cache, **GREEDY
    )
    assert torch.equal(cache, again) and [question for question, _ in history] == [QUESTION, "它是什么颜色的？"]
    embeds = encode_pixels(model, VisualGLMImageProcessor.for_config(model.config).read(SAMPLE))
    assert history[1][1] == second
    assert torch.allclose(embeds, model.encode_images(cache.float()), atol=0.05), "float16 pixels are all that differs"


def test_images_of_all_kinds_are_the_same_image(packed: Any) -> None:
    model, tokenizer = packed

    def ask(image_path: Any = None, **kwargs: Any) -> torch.Tensor:
        return sat.chat(image_path, model, tokenizer, QUESTION, max_length=60, **GREEDY, **kwargs)[2]

    by_path = ask(str(SAMPLE))
    with Image.open(SAMPLE) as opened:
        assert torch.equal(ask(image=opened.convert("RGB")), by_path)
    assert torch.equal(ask(SAMPLE), by_path) and torch.equal(ask(image=by_path), by_path)
    assert torch.equal(ask("http://somewhere/a.png", open_url=lambda url: SAMPLE), by_path)
    assert ask() is None and ask("") is None


def test_mistakes_with_images(packed: Any) -> None:
    model, tokenizer = packed
    with pytest.raises(ImageError, match="open_url"):
        sat.chat("http://somewhere/a.png", model, tokenizer, QUESTION)
    with pytest.raises(UsageError, match="pass only image_path"):
        sat.chat(str(SAMPLE), model, tokenizer, QUESTION, image=SAMPLE)
    with pytest.raises(ImageError, match="third value"):
        sat.chat(None, model, tokenizer, QUESTION, image=torch.zeros(1, 3, 5, 5))


def test_an_answer_with_a_mark_in_it_is_not_cut(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = packed
    said = [*tokenizer.encode_plain("一。答：二"), tokenizer.eos_token_id]
    generate = model.generate

    def scripted(**kwargs: Any) -> Any:
        row = kwargs["input_ids"][0].tolist()
        script = lambda ids, scores: F.one_hot(  # noqa: E731
            torch.tensor([said[ids.shape[1] - len(row)]]), scores.shape[-1]
        ).float()
        return generate(**{**kwargs, "logits_processor": [script]})

    monkeypatch.setattr(model, "generate", scripted)
    response, history, _ = sat.chat(None, model, tokenizer, QUESTION, **GREEDY)
    assert response == "一。答：二" and history == [(QUESTION, response)]


def test_names_and_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAT_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="SAT_HOME"):
        sat.VisualGLMModel.from_pretrained("visualglm-6b")
    with pytest.raises(UsageError, match="url"):
        sat.VisualGLMModel.from_pretrained("visualglm-6b", url="http://somewhere")
    shutil.copytree(REFERENCE / "sat", tmp_path / "mine")
    model, args = sat.AutoModel.from_pretrained("mine", argparse.Namespace(bf16=True, device="cpu", mine=1))
    assert type(model) is sat.VisualGLMModel and model.dtype == torch.bfloat16
    assert (args.mine, args.num_layers, args.pad_token_id) == (1, model.config.num_layers, 3)
    other, _ = sat.VisualGLMModel.from_pretrained("sat", home_path=REFERENCE, specific_iteration=1)
    assert other.dtype == torch.float32
    _, args = sat.VisualGLMModel.from_pretrained("mine", overwrite_args={"model_parallel_size": 1})
    assert args.model_parallel_size == 1


def test_mixins_under_sats_names(packed: Any) -> None:
    model, _ = packed
    assert model.get_mixin("eva").model is model.image_encoder
    assert model.get_mixin("chatglm-final").lm_head is model.lm_head
    assert isinstance(model.get_mixin("auto-regressive"), sat.CachedAutoregressiveMixin)
    with pytest.raises(UsageError, match="already"):
        model.add_mixin("auto-regressive", sat.CachedAutoregressiveMixin())
    with pytest.raises(UsageError, match="has: auto-regressive"):
        model.get_mixin("lora")


def tuned_logits(model: Any, kind: str) -> torch.Tensor:
    stored = np.load(FINE_TUNED / kind / "expected.npz")
    ids = torch.tensor(stored["input_ids"])
    ids[ids == 3] = model.config.image_token_id
    with torch.no_grad():
        return model(ids, pixel_values=torch.tensor(stored["pixel_values"])).logits[..., ::8]


def stored_logits(kind: str, name: str) -> torch.Tensor:
    return torch.tensor(np.load(FINE_TUNED / kind / "expected.npz")[name])


@pytest.mark.parametrize("kind", ["sat-lora", "sat-qlora"])
def test_lora_beside_the_weights_and_merged(kind: str, tmp_path: Path) -> None:
    """Upstream's recipe for merging with changed imports; both states have sat's logits."""
    pytest.importorskip("peft")
    model, args = sat.FineTuneVisualGLMModel.from_pretrained(
        FINE_TUNED / kind, args=argparse.Namespace(fp16=False, skip_init=True, device="cpu")
    )
    torch.testing.assert_close(tuned_logits(model, kind), stored_logits(kind, "logits"), atol=1e-4, rtol=0)
    with pytest.raises(UsageError, match="merge_lora"):
        sat.save_checkpoint(1, model, None, None, args)
    model.get_mixin("lora").merge_lora()
    torch.testing.assert_close(tuned_logits(model, kind), stored_logits(kind, "logits"), atol=1e-4, rtol=0)
    args.layer_range = []
    args.save = str(tmp_path / "merge_lora")
    args.mode = "inference"
    sat.save_checkpoint(1, model, None, None, args)
    again, _ = sat.AutoModel.from_pretrained(args.save, argparse.Namespace(device="cpu"))
    assert type(again) is sat.VisualGLMModel
    torch.testing.assert_close(tuned_logits(again, kind), stored_logits(kind, "logits"), atol=1e-4, rtol=0)


def test_auto_model_knows_what_was_tuned() -> None:
    pytest.importorskip("peft")
    lora, _ = sat.AutoModel.from_pretrained(FINE_TUNED / "sat-lora", argparse.Namespace(fp16=True, device="cpu"))
    assert type(lora) is sat.FineTuneVisualGLMModel and not lora.get_mixin("lora").is_merged
    prefix, _ = sat.AutoModel.from_pretrained(FINE_TUNED / "sat-ptuning", argparse.Namespace(device="cpu"))
    assert isinstance(prefix.get_mixin("ptuning"), sat.PTuningV2Mixin)
    assert torch.allclose(tuned_logits(prefix, "sat-ptuning"), stored_logits("sat-ptuning", "logits"), atol=1e-4)


def test_a_base_with_new_adapters(tmp_path: Path) -> None:
    """New LoRA changes nothing until it is trained, and only it is trainable; a new prefix is saved and restored."""
    pytest.importorskip("peft")
    args = argparse.Namespace(device="cpu", use_lora=True, lora_rank=2, layer_range=[0, 2])
    model, _ = sat.FineTuneVisualGLMModel.from_pretrained(REFERENCE / "sat", args)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 8 and all("lora_" in name for name in trainable)
    args = argparse.Namespace(device="cpu", use_ptuning=True, pre_seq_len=3)
    model, _ = sat.FineTuneVisualGLMModel.from_pretrained(REFERENCE / "sat", args)
    sat.save_checkpoint(7, model, None, None, argparse.Namespace(save=tmp_path / "prefix"))
    again, _ = sat.AutoModel.from_pretrained(tmp_path / "prefix", argparse.Namespace(device="cpu"))
    ids = torch.tensor([[9, 10, 401, 404]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)
    with pytest.raises(UsageError, match="layer_range"):
        args = argparse.Namespace(device="cpu", use_lora=True, lora_rank=2, layer_range=[14])
        sat.FineTuneVisualGLMModel.from_pretrained(REFERENCE / "sat", args)


def test_quantize_takes_the_model_or_its_transformer() -> None:
    """As upstream's scripts call it; a second call does nothing, other bits are rejected."""
    one, _ = sat.VisualGLMModel.from_pretrained(REFERENCE / "sat", argparse.Namespace(device="cpu"))
    other, _ = sat.VisualGLMModel.from_pretrained(REFERENCE / "sat", argparse.Namespace(device="cpu"))
    sat.quantize(one, 4)
    sat.quantize(other.transformer, 4)
    assert sat.quantize(one, 4) is one
    ids = torch.tensor([[9, 10, 401, 404]])
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)
    assert one.config.to_dict()["quantization_config"] == other.config.to_dict()["quantization_config"]
    with pytest.raises(UsageError, match="4 bits already"):
        sat.quantize(one, 8)


def test_what_the_web_page_and_the_api_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of upstream's `web_demo.py` and `api.py`, in their order, with their arguments."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model, tokenizer = sat.get_infer_setting(quant=8, name=str(PACKED))
    assert model.transformer.layers[0].mlp.dense_h_to_4h.bits == 8
    encoded = base64.b64encode(SAMPLE.read_bytes()).decode()
    history: list[tuple[str, str]] = []
    for text, image, is_encoded in (
        ("What is in the picture?", encoded, True),
        (QUESTION, Image.open(io.BytesIO(SAMPLE.read_bytes())), False),
    ):
        parameters = {"max_length": 100, "min_length": 50, "temperature": 0.8, "top_p": 0.4, "top_k": 100}
        request = sat.generate_input(text, image, history, parameters, image_is_encoded=is_encoded)
        source, numbers = request["input_image"], request["gen_kwargs"]
        numbers.pop("min_length")
        answer, history, _ = sat.chat(
            None, model, tokenizer, text, history=history, image=source, english=not sat.is_chinese(text), **numbers
        )
        assert history[-1] == (text, answer)
    assert [bool(sat.is_chinese(text)) for text, _ in history] == [False, True]
    with pytest.raises(ImageError, match="base64"):
        sat.generate_input("?", "not base64!")
