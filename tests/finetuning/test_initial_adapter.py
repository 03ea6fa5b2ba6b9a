"""What an adapter starts from: an existing one, which must fit, or for a new prefix the words of the answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from visualglm.adapters.files import WEIGHTS
from visualglm.checkpoints.save_sat import ADAPTER
from visualglm.conversation import load
from visualglm.errors import CheckpointError, UsageError
from visualglm.finetuning import run
from visualglm.finetuning.config import Finetuning, read_finetuning, validate
from visualglm.finetuning.initial_adapter import check_initial_adapter
from visualglm.finetuning.resume import BEFORE
from visualglm.finetuning.splits import answer_words, split_data

from .conftest import BASE, rows, written

WAYS = {
    "lora": ("lora", "learning_rate=0.05", "lora.rank=4", "parts.projection='full'"),
    "ptuning": ("ptuning", "learning_rate=0.5", "ptuning.tokens=4"),
}


def silent(line: str) -> None:
    """Nothing."""


@pytest.fixture(scope="module", params=WAYS)
def first(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Finetuning:
    """Return a finished run of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    method, *changes = WAYS[request.param]
    settings = ("batch=4", "epochs=4", "validation_share=0.0", "answers=4", "max_new_tokens=8", *changes)
    data = written(folder)
    given = {"data": data, "validation": data, "output": str(folder / "first"), "method": method, "model": BASE}
    plan = read_finetuning(None, settings, **given)
    assert run.finetune(plan, silent, device="cpu")
    return plan


def test_new_data_goes_on_from_the_adapter(first: Finetuning, models: list[Any], tmp_path: Path) -> None:
    """Its weights and its answers are the start, at another rate and on other rows; the old one stays as it is."""
    stored = load_file(Path(first.output) / WEIGHTS)
    result = json.loads((Path(first.output) / run.RESULT).read_text())
    plan = replace(first, adapter=first.output, epochs=1, warmup=0.0)
    plan = replace(plan, data=written(tmp_path, rows(4), "new.json"), output=str(tmp_path / "further"))
    assert run.finetune(plan, silent, device="cpu")
    ready, begun = models[-1]
    trained = {name: value.detach().clone() for name, value in ready.parameters.items()}
    ready.load_weights({name: begun[name] for name in trained})
    assert {name: value.tolist() for name, value in ready._adapter_tensors().items()} == {
        name: value.tolist() for name, value in stored.items()
    }
    assert any(not torch.equal(value, begun[name]) for name, value in trained.items())
    assert all(torch.equal(value, stored[name]) for name, value in load_file(Path(first.output) / WEIGHTS).items())
    answers = [json.loads((Path(one.output) / BEFORE).read_text())["answers"] for one in (first, plan)]
    assert answers[0] != answers[1]  # those of the base, and those of the adapter
    assert json.loads((tmp_path / "further" / run.RESULT).read_text())["right_before"] == result["right_after"]


def test_a_recipe_that_does_not_fit_is_refused_before_the_model_loads(first: Finetuning, tmp_path: Path) -> None:
    good = replace(first, adapter=first.output, output=str(tmp_path / "other"))
    check_initial_adapter(good)
    ptuning = first.method == "ptuning"
    other = replace(good.lora, rank=8, alpha=1.0), replace(good.ptuning, tokens=8)
    with pytest.raises(UsageError, match=r"tokens = 4" if ptuning else r"rank = 4, lora\.alpha = 32"):
        check_initial_adapter(replace(good, lora=other[0], ptuning=other[1]))
    with pytest.raises(UsageError, match="Choose the method"):
        check_initial_adapter(replace(good, method="lora" if ptuning else "ptuning"))
    with pytest.raises(CheckpointError, match="was trained on"):
        check_initial_adapter(replace(good, model=""))
    with pytest.raises(UsageError, match="no adapter"):
        check_initial_adapter(replace(good, adapter=str(tmp_path)))


@pytest.mark.parametrize("first", ["lora"], indirect=True)
def test_an_adapter_of_other_layers_or_of_no_numbers_is_refused(first: Finetuning, tmp_path: Path) -> None:
    good = replace(first, adapter=first.output, output=str(tmp_path / "other"))
    for lora, parts in (
        (replace(good.lora, layers="1"), good.parts),
        (replace(good.lora, targets=("attention.dense",)), good.parts),
        (good.lora, replace(good.parts, projection="frozen")),
    ):
        with pytest.raises(UsageError, match="adapts other layers than this recipe"):
            run.finetune(replace(good, lora=lora, parts=parts), silent, device="cpu")
    for change, said in (({"use_rslora": True}, "use_rslora"), ({"alpha_pattern": {"dense": 3}}, "alpha_pattern")):
        changed = shutil.copytree(first.output, tmp_path / said)
        config = json.loads((changed / "adapter_config.json").read_text())
        (changed / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(UsageError, match=said):
            run.finetune(replace(good, adapter=str(changed)), silent, device="cpu")
    tensors = load_file(Path(first.output) / WEIGHTS)
    tensors[next(iter(tensors))].fill_(float("nan"))
    save_file(tensors, Path(shutil.copytree(first.output, tmp_path / "nan")) / WEIGHTS)
    with pytest.raises(CheckpointError, match="NaN"):
        run.finetune(replace(good, adapter=str(tmp_path / "nan")), silent, device="cpu")


def test_a_new_prefix_starts_from_words_of_the_answers(recipe: Any, models: list[Any], tmp_path: Path) -> None:
    """Its keys and values are those that the base computes for these tokens, which repeat if there are too few."""
    plan = recipe("ptuning", "ptuning.tokens=5", "epochs=1", "warmup=0.5", "batch=8", "answers=0")
    sides = split_data(plan, *run._load_processor(plan), silent)
    words = answer_words(sides, 5)
    tokenizer = sides.learned.samples.processor.tokenizer
    assert words and len(set(words)) == len(words) <= 5 and tokenizer.eos_token_id not in words
    assert {*words} <= {token for row in rows() for token in tokenizer.encode_plain(row["label"])}
    assert run.finetune(plan, silent, device="cpu")  # one step, at rate 0
    ((ready, _),) = models
    prefix = ready.model.get_mixin(ADAPTER).prefix
    model, config = load(BASE, device="cpu").model, ready.model.config
    ids = torch.tensor([[*(words * 5)[:5], config.gmask_token_id, config.bos_token_id]])
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        for number, layer in enumerate(cache.layers):
            states = torch.stack([layer.keys[0, :, :5], layer.values[0, :, :5]])
            torch.testing.assert_close(prefix(number), states)


def test_what_has_no_adapter_to_go_on_from_says_so(recipe: Any) -> None:
    with pytest.raises(UsageError, match="Merge it into its base"):
        validate(recipe("full", "adapter='runs/moon'"))
    with pytest.raises(UsageError, match=r"Remove ptuning\.reparameterise"):
        validate(recipe("ptuning", "adapter='runs/moon'", "ptuning.reparameterise=true"))
