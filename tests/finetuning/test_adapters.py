"""Trained adapters: PEFT can open them; they require their base, work by name in every interface, and merge."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from typer.testing import CliRunner

from visualglm.adapters.files import adapter_folder, base_of
from visualglm.adapters.merge import merge
from visualglm.cli import app
from visualglm.conversation import VisualGLM, load
from visualglm.errors import CheckpointError, UsageError
from visualglm.finetuning import run

from ..conftest import REFERENCE
from .conftest import BASE, IMAGES

QUESTION = "图0？"
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}
WAYS = {
    "lora": ("lora", "learning_rate=0.05", "parts.projection='full'", "parts.qformer='lora'"),
    "dora": ("lora", "learning_rate=0.05", "lora.dora=true", "lora.layers='1-2'"),
    "prefix": ("ptuning", "learning_rate=0.5", "ptuning.tokens=4"),
    "reparameterised": ("ptuning", "learning_rate=0.05", "ptuning.tokens=4", "ptuning.reparameterise=true"),
}


def logits(model: Any, image: str = IMAGES[0]) -> torch.Tensor:
    """Return the logits of one question, through the whole pipeline."""
    opened = VisualGLM(model, load(BASE, device="cpu").processor)
    inputs = opened.processor(image, f"<img></img>问：{QUESTION}\n答：", return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, torch.Tensor]]:
    """Train an adapter of each kind; return it with the logits of its model."""
    from visualglm.finetuning.config import read_finetuning

    from .conftest import written

    folder = tmp_path_factory.mktemp("trained")
    data = written(folder)
    settings = ("batch=4", "epochs=3", "validation_share=0.0", "answers=0", "max_new_tokens=1", "save_steps=2")
    made: dict[str, tuple[Path, torch.Tensor]] = {}
    finish = run.save_result

    def noted(name: str, ready: Any, *rest: Any) -> None:
        made[name] = (folder / name, logits(ready.model.eval()))
        finish(ready, *rest)

    for name, (method, *changes) in WAYS.items():
        output = str(folder / name)
        recipe = read_finetuning(None, (*settings, *changes), data=data, output=output, method=method, model=BASE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "save_result", partial(noted, name))
            assert run.finetune(recipe, lambda line: None, device="cpu")
    return made


def test_lora_beside_weights_in_fewer_bits(trained: Any, tmp_path: Path) -> None:
    folder, wanted = trained["lora"]
    bare = logits(load(BASE, device="cpu").model)
    found = logits(load(BASE, device="cpu", quantize=8, adapter=folder).model)
    assert (found - wanted).norm() < 0.15 * wanted.norm()
    assert (found - wanted).norm() < (bare - wanted).norm()
    with pytest.raises(UsageError, match="DoRA"):
        load(BASE, device="cpu", quantize=8, adapter=trained["dora"][0])
    load(BASE, device="cpu", quantize=8).model.save_pretrained(tmp_path / "q")
    with pytest.raises(UsageError, match="Merge first"):
        merge(tmp_path / "q", folder, tmp_path / "merged")


@pytest.mark.parametrize("kind", WAYS)
def test_an_adapter_computes_what_was_trained(trained: Any, kind: str) -> None:
    folder, wanted = trained[kind]
    bare = load(BASE, device="cpu")
    before = logits(bare.model)
    opened = load(BASE, device="cpu", adapter=folder)
    torch.testing.assert_close(logits(opened.model), wanted, atol=1e-4, rtol=0)
    assert (before - wanted).abs().max() > 0.01
    opened.use_adapter(None)
    torch.testing.assert_close(logits(opened.model), before)


def test_a_checkpoint_of_a_step_is_an_adapter(trained: Any) -> None:
    folder, wanted = trained["lora"]
    early = load(BASE, device="cpu", adapter=f"{folder}@4")
    assert (logits(early.model) - wanted).abs().max() > 1e-3
    with pytest.raises(UsageError, match=r"@4"):
        adapter_folder(f"{folder}@3")
    with pytest.raises(UsageError, match="no adapter"):
        adapter_folder(folder.parent)


def test_several_adapters_switched_by_question(trained: Any) -> None:
    model = load(BASE, device="cpu")
    for kind, (folder, _) in trained.items():
        assert model.add_adapter(folder) == kind
    assert set(model.adapters) == set(trained)
    for kind in (*trained, *reversed(trained)):
        talk = model.conversation(IMAGES[0], adapter=kind)
        said = talk.ask(QUESTION, **GREEDY).text
        assert said == load(BASE, device="cpu", adapter=trained[kind][0]).ask(IMAGES[0], QUESTION, **GREEDY).text
        torch.testing.assert_close(logits(model.model), trained[kind][1], atol=1e-4, rtol=0)
    with pytest.raises(UsageError, match="Choose from"):
        model.use_adapter("another")
    with pytest.raises(UsageError, match="already"):
        model.add_adapter(trained["lora"][0])


@pytest.mark.parametrize("kind, to", [("lora", "native"), ("dora", "hf"), ("lora", "sat"), ("prefix", "native"),
                                      ("reparameterised", "sat")])  # fmt: skip
def test_merged_answers_as_the_adapter_does(trained: Any, tmp_path: Path, kind: str, to: Any) -> None:
    """The base's files hold float16, so the merged weights are rounded to it."""
    folder, wanted = trained[kind]
    merged = load(merge(BASE, folder, tmp_path / "merged", to), device="cpu", dtype="float32")
    merged.model.config.rotary_frequencies = "half"  # a Hugging Face base computes so, whatever layout holds it now
    torch.testing.assert_close(logits(merged.model), wanted, atol=0.05, rtol=0)
    assert not list(tmp_path.glob(".merged-*"))


def test_a_prefix_has_no_place_in_upstreams_layout(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--to native or --to sat"):
        merge(BASE, trained["prefix"][0], tmp_path / "merged", "hf")


def test_another_base_is_refused_by_name(trained: Any, tmp_path: Path) -> None:
    """The other base differs in one weight; another layout of the same weights is accepted."""
    folder = trained["dora"][0]
    assert load(str(REFERENCE / "sat"), tokenizer=f"{BASE}/ice_text.model", device="cpu", adapter=folder).adapters
    other = load(BASE, device="cpu").model
    other.transformer.layers[1].attention.dense.weight.data += 0.01
    other.save_pretrained(tmp_path / "other")
    assert base_of(tmp_path / "other").fingerprint != base_of(BASE).fingerprint
    for attempt in (
        lambda: load(tmp_path / "other", device="cpu", adapter=folder),
        lambda: merge(tmp_path / "other", folder, tmp_path / "merged"),
    ):
        with pytest.raises(CheckpointError, match=r"was trained on .*hf .*but the model is .*other"):
            attempt()


def test_other_programs_read_it(trained: Any) -> None:
    folder, wanted = trained["lora"]
    base = load(BASE, device="cpu").model
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base, str(folder)).base_model.model), wanted)


def test_a_broken_file_is_named(trained: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained["dora"][0], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = config["target_modules"].replace("(1|2)", "(0|1|2)")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit"):
        load(BASE, device="cpu", adapter=folder)


def test_the_command_line_takes_an_adapter(trained: Any, tmp_path: Path) -> None:
    folder, _ = trained["lora"]
    flags = ["--model", BASE, "--greedy", "--max-new-tokens", "8", "--device", "cpu"]
    done = CliRunner().invoke(app, ["ask", IMAGES[0], QUESTION, *flags, "--adapter", str(folder)])
    assert done.exit_code == 0, done.output
    said = load(BASE, device="cpu", adapter=folder).ask(IMAGES[0], QUESTION, **GREEDY).text
    assert done.stdout.strip() == said.strip()
    done = CliRunner().invoke(app, ["merge", BASE, str(folder), str(tmp_path / "merged")])
    assert done.exit_code == 0 and (tmp_path / "merged" / "config.json").is_file()
