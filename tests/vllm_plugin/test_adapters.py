"""LoRA inside vLLM: each answer equals that of transformers and PEFT, in any batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from visualglm.errors import CheckpointError, UsageError

from ..adapters.conftest import made
from .conftest import DIALOGUES, FOLDER, FOUR, NEW_TOKENS, Answer, Oracle, check

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
pytest.importorskip("peft", reason="visualglm[train] brings it; make test-vllm installs it")
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

KINDS = {
    "attention": ("lora",),
    "four of two blocks": ("lora", f"lora.targets={FOUR}", "lora.rank=4", "lora.layers='1-2'"),
}
REFUSED = {
    "image_encoder.vit": ("lora", "parts.vision='lora'"),
    "image_encoder.glm_proj": ("lora", "parts.projection='full'"),
    "DoRA": ("lora", "lora.dora=true"),
    "PREFIX_TUNING": ("ptuning",),
}
GREEDY = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    kinds = {**KINDS, **REFUSED}
    return {
        name: made(folder / name.replace(" ", "-"), str(FOLDER), *kind, seed=seed, size=0.05)
        for seed, (name, kind) in enumerate(kinds.items())
    }


@pytest.fixture(scope="module")
def answers(adapters: dict[str, Path]) -> dict[tuple[str | None, str], Answer]:
    """Return the answers of transformers to each dialogue, with each adapter and without."""
    oracle, found = Oracle(), {}
    for name in KINDS:
        oracle.opened.add_adapter(adapters[name], name)
    with torch.inference_mode():
        for name in (None, *KINDS):
            oracle.opened.use_adapter(name)
            found |= {(name, dialogue): oracle.answer(messages) for dialogue, messages in DIALOGUES.items()}
    return found


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    engines = [LLM(str(FOLDER), dtype="float32", enable_lora=True, max_loras=2)]
    yield engines[0]
    engines.clear()


def test_a_batch_with_and_without_adapters_equals_peft(
    llm: Any, adapters: dict[str, Path], answers: dict[tuple[str | None, str], Answer]
) -> None:
    """On a CPU, vLLM alone would apply the last adapter to the requests without one."""
    requests: dict[str | None, Any] = {None: None}
    requests |= {name: LoRARequest(name, number, str(adapters[name])) for number, name in enumerate(KINDS, 1)}
    asked = [(name, dialogue) for dialogue in DIALOGUES for name in requests]
    chosen = [requests[name] for name, _ in asked]
    outputs = llm.chat([DIALOGUES[dialogue] for _, dialogue in asked], GREEDY, use_tqdm=False, lora_request=chosen)
    for output, key in zip(outputs, asked, strict=True):
        check(output, answers[key])
    assert len({tuple(answers[name, dialogue].logprobs) for name, dialogue in asked}) == len(asked)


@pytest.mark.parametrize("kind", REFUSED)
def test_an_adapter_that_vllm_would_attach_in_part_is_rejected(llm: Any, adapters: dict[str, Path], kind: str) -> None:
    with pytest.raises(UsageError, match=kind):
        llm.llm_engine.add_lora(LoRARequest(kind, 9, str(adapters[kind])))


def test_an_adapter_of_another_model_is_refused(llm: Any, adapters: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(adapters["attention"], tmp_path / "other")
    base = json.loads((other / "base.json").read_text())
    (other / "base.json").write_text(json.dumps({**base, "fingerprint": "0123456789abcdef"}))
    with pytest.raises(CheckpointError, match="was trained on"):
        llm.llm_engine.add_lora(LoRARequest("other", 9, str(other)))
