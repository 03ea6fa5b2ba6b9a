"""The Auto classes open every kind of folder with our classes and never run a checkpoint's own code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

import visualglm
import visualglm.auto
from visualglm.checkpoints import convert
from visualglm.errors import CheckpointError, ConfigurationError
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig
from visualglm.preprocessing.images import VisualGLMImageProcessor
from visualglm.preprocessing.processor import VisualGLMProcessor
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

REFERENCE = Path(__file__).parent / "reference"
REMOTE = ("configuration_chatglm", "modeling_chatglm", "tokenization_chatglm", "processing_chatglm")
AUTO_MODELS = (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
)
TRUST: list[dict[str, bool]] = [{}, {"trust_remote_code": False}, {"trust_remote_code": True}]


def with_remote_code(folder: Path) -> Path:
    """As the published folder is: its configuration points at code beside it. Here that code says so when it runs."""
    for name in REMOTE:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} ran')")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    home = tmp_path_factory.mktemp("auto")
    raw = with_remote_code(Path(shutil.copytree(REFERENCE / "hf", home / "raw")))
    native = with_remote_code(convert(raw, home / "native", with_fingerprint=False))
    saved = home / "saved"
    VisualGLMForConditionalGeneration.from_pretrained(raw).save_pretrained(saved)
    VisualGLMProcessor.from_pretrained(raw).save_pretrained(saved)
    yield {"raw": raw, "native": native, "saved": saved}


@pytest.mark.parametrize("trust", TRUST, ids=["unset", "False", "True"])
@pytest.mark.parametrize("kind", ["raw", "native", "saved"])
def test_every_class(folders: dict[str, Path], kind: str, trust: dict[str, Any]) -> None:
    folder = str(folders[kind])
    assert type(AutoConfig.from_pretrained(folder, **trust)) is VisualGLMConfig
    for auto_class in AUTO_MODELS:
        model = auto_class.from_pretrained(folder, **trust)
        assert type(model) is VisualGLMForConditionalGeneration
        assert model.dtype == torch.float16 and model.config.tie_word_embeddings
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    assert type(tokenizer) is ChatGLMTokenizer and tokenizer.encode("你好")[-2:] == [401, 404]
    processor = AutoProcessor.from_pretrained(folder, **trust)
    assert type(processor) is VisualGLMProcessor and type(processor.tokenizer) is ChatGLMTokenizer
    assert type(processor.image_processor) is VisualGLMImageProcessor


@pytest.mark.parametrize("trust", TRUST, ids=["unset", "False", "True"])
@pytest.mark.parametrize("kind", ["native", "saved"])
def test_image_processor(folders: dict[str, Path], kind: str, trust: dict[str, Any]) -> None:
    """Not upstream's folder: it has no file for it, and AutoImageProcessor asks no class without one."""
    images = AutoImageProcessor.from_pretrained(folders[kind], **trust)
    assert type(images) is VisualGLMImageProcessor and dict(images.size) == {"height": 56, "width": 56}


@pytest.mark.parametrize("trust", TRUST, ids=["unset", "False", "True"])
def test_the_packed_model(trust: dict[str, Any]) -> None:
    folder = visualglm.packed_model()
    if not (Path(folder) / "config.json").exists():
        pytest.skip("the packed model is not built in this checkout")
    assert type(AutoConfig.from_pretrained(folder, **trust)) is VisualGLMConfig
    assert type(AutoModel.from_pretrained(folder, **trust)) is VisualGLMForConditionalGeneration
    assert type(AutoTokenizer.from_pretrained(folder, **trust)) is ChatGLMTokenizer
    assert type(AutoProcessor.from_pretrained(folder, **trust)) is VisualGLMProcessor


def test_models_go_through_the_strict_loader(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["raw"], tmp_path / "broken")
    (folder / "pytorch_model-00003-of-00003.bin").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="is a web page"):
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folders["raw"], dtype="float32", rotary_frequencies="exact")
    assert model.dtype == torch.float32 and model.config.rotary_frequencies == "exact"
    assert model.name_or_path == str(folders["raw"])


@pytest.fixture
def chatglm2(tmp_path: Path) -> Path:
    """Return what a ChatGLM2 folder looks like from outside."""
    folder = tmp_path / "chatglm2"
    folder.mkdir()
    config = {"model_type": "chatglm", "multi_query_attention": True, "padded_vocab_size": 65024, "kv_channels": 128}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLMTokenizer"}')
    shutil.copy(REFERENCE / "hf/ice_text.model", folder / "tokenizer.model")
    return folder


@pytest.mark.parametrize("trust", TRUST, ids=["unset", "False", "True"])
def test_newer_chatglm_is_refused(chatglm2: Path, trust: dict[str, Any]) -> None:
    for auto_class in (AutoConfig, AutoModel):
        with pytest.raises(ConfigurationError, match="ChatGLM2 or ChatGLM3"):
            auto_class.from_pretrained(chatglm2, **trust)
    for auto_class in (AutoTokenizer, AutoProcessor):
        with pytest.raises((ValueError, OSError)):
            auto_class.from_pretrained(chatglm2, **trust)


def test_tokenizer_of_the_text_model(tmp_path: Path) -> None:
    """ChatGLM-6B v1's folder: sat users take their tokenizer from it. Its model is refused, its vocabulary opens."""
    folder = Path(shutil.copytree(REFERENCE / "hf", tmp_path / "chatglm-6b"))
    raw = json.loads((folder / "config.json").read_text())
    text_only = {key: value for key, value in raw.items() if key not in ("eva_config", "qformer_config")}
    (folder / "config.json").write_text(json.dumps(text_only))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("num_image_tokens")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for trust in TRUST:
        assert type(AutoTokenizer.from_pretrained(folder, **trust)) is ChatGLMTokenizer
        with pytest.raises(ConfigurationError, match="text-only ChatGLM-6B"):
            AutoModel.from_pretrained(folder, **trust)


def test_registering_twice_changes_nothing() -> None:
    visualglm.auto.register()
    assert REGISTERED_TOKENIZER_CLASSES["ChatGLMTokenizer"] is ChatGLMTokenizer


def test_the_package_alone_registers_nothing() -> None:
    program = """
import visualglm, visualglm.network.visualglm
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES as names
assert "visualglm" not in CONFIG_MAPPING and "chatglm" not in CONFIG_MAPPING and "ChatGLMTokenizer" not in names
import visualglm.auto
assert "visualglm" in CONFIG_MAPPING and "chatglm" in CONFIG_MAPPING and "ChatGLMTokenizer" in names
"""
    subprocess.run([sys.executable, "-c", program], check=True)
