"""Fixtures that many tests share: the reference set, and the small random model opened from upstream's files."""

from __future__ import annotations

import os

os.environ.pop("VISUALGLM_MODEL", None)  # tests without a model mean the packed one
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach a hub; before transformers is imported
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, a core each; processes that tests start inherit it
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # where a test takes two threads all the same, they wait without a busy loop

import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import visualglm
from visualglm.cli import main
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig
from visualglm.network.stem import FoldedConv
from visualglm.network.vision import ZeroLinear, is_of_stem
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

collect_ignore = [] if importlib.util.find_spec("fastapi") else ["serving", "web"]  # they want visualglm[serve]
CONCEPTS = 12
REFERENCE = Path(__file__).parent / "reference"
torch.set_num_threads(1)
transformers.logging.disable_progress_bar()
if importlib.util.find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # no test depends on time: a busy machine is slow to draw and to answer
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow tests first, so that no process waits for the last of them alone."""
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("slow", "docs", "lab")))


class Reference:
    """What upstream's code computed, by case (see reference/README.md)."""

    @cached_property
    def arrays(self) -> Any:
        return np.load(REFERENCE / "reference.npz")

    @cached_property
    def cases(self) -> dict[str, Any]:
        return json.loads((REFERENCE / "cases.json").read_text(encoding="utf-8"))

    @cached_property
    def names(self) -> list[str]:
        return sorted(key.split("/")[0] for key in self.arrays.files if key.endswith("/input_ids"))

    def has(self, case: str, name: str) -> bool:
        return f"{case}/{name}" in self.arrays.files

    def tensor(self, case: str, name: str) -> torch.Tensor:
        return torch.tensor(self.arrays[f"{case}/{name}"])

    def inputs(self, case: str, image_token_id: int = 767, image_length: int = 32) -> dict[str, torch.Tensor]:
        """Return the case as our model takes it: upstream's unk or pad slots become `image_token_id`."""
        inputs = {"input_ids": self.tensor(case, "input_ids").clone()}
        if self.has(case, "pixel_values"):
            start = int(self.tensor(case, "pre_image_length"))
            inputs["input_ids"][:, start : start + image_length] = image_token_id
            inputs["pixel_values"] = self.tensor(case, "pixel_values")
        if self.has(case, "attention_mask"):
            inputs["attention_mask"] = self.tensor(case, "attention_mask")
        return inputs


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


def open_reference(layout: str = "hf", **kwargs: Any) -> VisualGLMForConditionalGeneration:
    """Return the small random model from upstream's files."""
    kwargs = {"dtype": torch.float32, **kwargs}
    return VisualGLMForConditionalGeneration.from_pretrained(str(REFERENCE / layout), **kwargs).eval()


@pytest.fixture(scope="session")
def model() -> VisualGLMForConditionalGeneration:
    """Shared: tests must leave it as it was."""
    return open_reference()


@pytest.fixture(scope="session")
def opened() -> visualglm.VisualGLM:
    """Return the packed model. Shared: tests must leave it as it was."""
    return visualglm.load(device="cpu")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., CompletedProcess]:
    """Return the `visualglm` program in this process: its output and exit code; a traceback is raised."""

    def run(*arguments: str, stdin: bytes = b"") -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["visualglm", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return CompletedProcess(arguments, ended.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def tokenizer() -> ChatGLMTokenizer:
    return ChatGLMTokenizer(vocab_file=str(REFERENCE / "hf" / "ice_text.model"))


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    """Return a private copy of the reference set's Hugging Face folder."""
    return Path(shutil.copytree(REFERENCE / "hf", tmp_path / "hf"))


@pytest.fixture
def sat(tmp_path: Path) -> Path:
    """Return a private copy of the reference set's sat folder."""
    return Path(shutil.copytree(REFERENCE / "sat", tmp_path / "sat"))


@pytest.fixture(scope="session")
def stem_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the packed model in float32 with a convolutional stem of random weights that changes what it computes."""
    folder = tmp_path_factory.mktemp("with") / "stem"
    shutil.copytree(visualglm.packed_model(), folder)
    (folder / "fingerprint.json").unlink()
    model = with_random_stem(VisualGLMForConditionalGeneration.from_pretrained(str(folder), dtype=torch.float32))
    for module in model.modules():
        if isinstance(module, ZeroLinear):
            torch.nn.init.normal_(module.weight, std=0.02)
    model.save_pretrained(folder)
    return folder


def with_random_stem(model: VisualGLMForConditionalGeneration) -> VisualGLMForConditionalGeneration:
    """Return the same model with a convolutional stem, whose added linear layers are still zero."""
    torch.manual_seed(0)
    config = VisualGLMConfig.from_dict(model.config.to_dict())
    config.vision.stem, config.vision.concepts = "efficientnet-lite0", CONCEPTS
    made = VisualGLMForConditionalGeneration(config).eval()
    made.generation_config = model.generation_config
    weights = {name: value for name, value in model.state_dict().items() if not is_of_stem(name)}
    made.load_state_dict(weights, strict=False)
    for module in made.modules():
        if isinstance(module, FoldedConv):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return made
