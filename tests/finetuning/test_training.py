"""Training of the small random model: only the intended weights change; a resumed run equals an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from visualglm.conversation import load
from visualglm.errors import UsageError
from visualglm.finetuning import run
from visualglm.finetuning.dataset import Collator, FinetuningDataset
from visualglm.finetuning.trainable_model import TRAINED, part_of
from visualglm.finetuning.trainer import DivergenceCallback, read_metrics

from .conftest import BASE, rows, written

pytestmark = pytest.mark.slow

WAYS = [
    ("lora", (), {"language"}),
    ("lora", ("lora.dora=true", "lora.layers='0-1'", "gradient_checkpointing=true"), {"language"}),
    (
        "lora",
        ("parts.projection='full'", "parts.qformer='lora'", "parts.vision='lora'"),
        {"language", "projection", "qformer", "vision"},
    ),
    ("ptuning", (), {"language"}),
    ("ptuning", ("ptuning.reparameterise=true",), {"language"}),
    ("full", (), {"language"}),
    ("full", ("parts.language='frozen'", "parts.projection='full'", "parts.vision='full'"), {"projection", "vision"}),
    ("full", ("parts.language='frozen'", "parts.qformer='full'"), {"qformer"}),
    ("full", ("dtype='bfloat16'",), {"language"}),
]


def silent(line: str) -> None:
    """Print nothing."""


@pytest.mark.parametrize("method, changes, parts", WAYS, ids=[f"{way[0]}{n}" for n, way in enumerate(WAYS)])
def test_only_what_should_train_moves(
    recipe: Any, models: list[Any], method: str, changes: tuple[str, ...], parts: set[str]
) -> None:
    assert run.finetune(recipe(method, "learning_rate=0.01", *changes), silent, device="cpu")
    ((ready, before),) = models
    moved = {name for name, value in ready.model.named_parameters() if not torch.equal(value, before[name])}
    assert {part_of(name) for name in moved} == parts
    assert moved <= set(ready.parameters)
    if "lora.layers" in str(changes):
        assert not any("layers.2." in name for name in moved)


@pytest.mark.parametrize(
    "method, number", [("lora", signal.SIGINT), ("ptuning", signal.SIGTERM), ("full", signal.SIGTERM)]
)
def test_killed_and_resumed_equals_never_killed(
    recipe: Any, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    """Equal to the last bit: dropout, order of samples, optimizer and scheduler continue."""
    changes = ("lora.dropout=0.3", "epochs=3", "validation_share=0.25", "batch=2", "accumulate=2")
    whole, parts = recipe(method, *changes, output="whole"), recipe(method, *changes, output="parts")
    assert run.finetune(whole, silent, device="cpu")

    begun = run.InterruptCallback.on_step_end

    def killed(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            os.kill(os.getpid(), number)
        begun(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(run.InterruptCallback, "on_step_end", killed)
        assert not run.finetune(parts, silent, device="cpu")
    with pytest.raises(UsageError, match="--resume"):
        run.finetune(parts, silent, device="cpu")
    assert run.finetune(parts, silent, resume=True, device="cpu")

    results = [Path(one.output) for one in (whole, parts)]
    last = sorted(results[0].glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[-1].name
    one, other = (load_file(folder / last / TRAINED) for folder in results)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    first, second = ([row["loss"] for row in read_metrics(f / "metrics.jsonl") if "loss" in row] for f in results)
    assert first == second
    with pytest.raises(UsageError, match="batch differ"):
        run.finetune(recipe(method, *changes, "batch=4", output="parts"), silent, resume=True, device="cpu")


def test_the_run_leaves_its_proof(recipe: Any, tmp_path: Path) -> None:
    said: list[str] = []
    plan = recipe("lora", "validation_share=0.25")
    assert run.finetune(plan, said.append, device="cpu")
    assert any("6 to train on, 2 held out" in line for line in said) and any("memory: about" in line for line in said)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["asked"] == 2 and 0 <= result["probe_unchanged"] <= 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/svg+xml" in page and "data:image/png" in page and "<script" not in page
    metrics = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert {"loss", "learning_rate", "grad_norm"} <= metrics[0].keys() and any("eval_loss" in row for row in metrics)


def test_forgetting_is_measured_on_drawn_scenes(recipe: Any, tmp_path: Path) -> None:
    said: list[str] = []
    assert run.finetune(recipe("lora", "validation_share=0.25", "forgetting=1"), said.append, device="cpu")
    assert any("not photographs" in line for line in said)
    found = json.loads((tmp_path / "out" / "forgetting.json").read_text("utf-8"))
    assert "presence" in found["differences"] and found["only_in_a"] == 0
    assert all((tmp_path / "out" / f"scenes-{when}" / "report.html").exists() for when in ("before", "after"))


def test_cached_features_change_nothing(recipe: Any) -> None:
    plans = [recipe("lora", f"cache_features={word}", output=word) for word in ("true", "false")]
    for plan in plans:
        assert run.finetune(plan, silent, device="cpu")
    one, other = ([row["loss"] for row in read_metrics(Path(plan.output) / "metrics.jsonl")] for plan in plans)
    assert one == pytest.approx(other, abs=1e-5) and len(one) == 4


def test_full_gives_a_model_that_loads(recipe: Any) -> None:
    plan = recipe("full", "learning_rate=0.01")
    assert run.finetune(plan, silent, device="cpu")
    base, trained = load(BASE, device="cpu"), load(plan.output, device="cpu")
    assert not torch.equal(base.model.lm_head.weight, trained.model.lm_head.weight)
    assert torch.equal(base.model.image_encoder.glm_proj.weight, trained.model.image_encoder.glm_proj.weight)
    assert trained.ask(rows(1)[0]["img"], "图？", do_sample=False, max_new_tokens=2).completion_tokens


@pytest.mark.parametrize("method", ["lora", "ptuning", "full"])
def test_eight_samples_are_learned_by_heart(recipe: Any, method: str) -> None:
    rates = {"lora": 0.01, "ptuning": 0.4, "full": 0.003}
    settings = (
        f"epochs={600 if method == 'ptuning' else 150}",
        "batch=8",
        f"learning_rate={rates[method]}",
        "save_steps=1000",
        "answers=0",
    )
    plan = recipe(method, *settings)
    assert run.finetune(plan, silent, device="cpu")
    assert read_metrics(Path(plan.output) / "metrics.jsonl")[-1]["loss"] < 0.01


def test_the_loss_is_upstreams(recipe: Any, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference case `train_pair` as a data file gives upstream's ids, labels and loss."""
    case, wanted = reference.cases["cases"]["train_pair"], float(reference.tensor("train_pair", "loss"))
    question = case["context"].removeprefix("<img></img>问：").removesuffix("\n答：")
    row = {"img": rows(1)[0]["img"], "prompt": question, "label": case["answer"]}
    monkeypatch.setattr(
        FinetuningDataset, "pixel_values", lambda *_: [reference.tensor("train_pair", "pixel_values")[0]]
    )
    batches: list[Any] = []
    real = Collator.__call__

    def noted(self: Collator, samples: list[Any]) -> Any:
        batches.append(real(self, samples))
        return batches[-1]

    monkeypatch.setattr(Collator, "__call__", noted)
    plan = recipe("lora", "batch=1", "epochs=1", "cache_features=false", data=written(tmp_path, [row], "pair.json"))
    assert run.finetune(plan, silent, device="cpu")
    assert torch.equal(batches[0]["input_ids"], reference.inputs("train_pair")["input_ids"])
    assert torch.equal(batches[0]["labels"], reference.tensor("train_pair", "labels"))
    (loss,) = [line["loss"] for line in read_metrics(Path(plan.output) / "metrics.jsonl") if "loss" in line]
    assert loss == pytest.approx(wanted, abs=1e-4)


def test_early_stop_ends_and_keeps_the_best(recipe: Any) -> None:
    """Two good steps, then a ruinous learning rate: the result has the weights of the best validation."""
    changes = ("validation_share=0.25", "early_stop=2", "epochs=40", "save_steps=1", "learning_rate=3.0", "warmup=0.9")
    plan = recipe("lora", *changes)
    assert run.finetune(plan, silent, device="cpu")
    output = Path(plan.output)
    losses = {row["step"]: row["eval_loss"] for row in read_metrics(output / "metrics.jsonl") if "eval_loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert max(losses) == best + 2 < 80
    adapter, kept = (
        load_file(folder / "adapter_model.safetensors") for folder in (output, output / f"checkpoint-{best}")
    )
    assert all(torch.equal(value, kept[name]) for name, value in adapter.items())
    assert json.loads((output / "base.json").read_text())["step"] == best


def test_processes_that_decode_change_nothing(recipe: Any) -> None:
    plans = [recipe("lora", "cache_features=false", f"workers={count}", output=str(count)) for count in (0, 2)]
    for plan in plans:
        assert run.finetune(plan, silent, device="cpu")
    one, other = ([row["loss"] for row in read_metrics(Path(plan.output) / "metrics.jsonl")] for plan in plans)
    assert one == other and len(one) == 4


def test_tensorboard_writes_its_files(recipe: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="not run: no package that writes TensorBoard's files")
    assert run.finetune(recipe("lora", "tensorboard=true", "epochs=1"), silent, device="cpu")
    assert list((tmp_path / "out").rglob("events.out.tfevents.*"))


def test_tensorboard_without_a_package_is_said_before_the_work(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visualglm.finetuning.trainer.is_tensorboard_available", lambda: False)
    with pytest.raises(UsageError, match="pip install tensorboard"):
        run.finetune(recipe("lora", "tensorboard=true"), silent, device="cpu")


def test_text_rows_mix_in(recipe: Any, tmp_path: Path) -> None:
    mixed = [*rows(3), {"prompt": "没有图", "label": "c"}]
    plan = recipe("lora", "batch=1", "parts.projection='full'", data=written(tmp_path, mixed, "mixed.json"))
    assert run.finetune(plan, silent, device="cpu")


def test_a_run_that_fails_gives_the_process_back(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM and Ctrl-C end the program again, and no thread still draws the bar."""

    def failed(*_: Any, **__: Any) -> None:
        raise UsageError("no more")

    def handlers() -> list[Any]:
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    before = handlers(), set(threading.enumerate())
    monkeypatch.setattr(DivergenceCallback, "on_log", failed)
    with pytest.raises(UsageError, match="no more"):
        run.finetune(recipe("lora"), silent, device="cpu")
    for thread in set(threading.enumerate()) - before[1]:
        thread.join(10)  # the bar's thread is told to end, and may need a moment
    assert (handlers(), set(threading.enumerate())) == before


class State:
    global_step = 7


@pytest.mark.parametrize("loss, word", [(0.0, "exactly 0"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_a_loss_that_says_nothing_stops_the_run(loss: float, word: str) -> None:
    with pytest.raises(UsageError, match=f"step 7.*{word}"):
        DivergenceCallback().on_log(None, State, None, {"loss": loss})


def test_a_flat_loss_stops_the_run() -> None:
    alarm = DivergenceCallback()
    with pytest.raises(UsageError, match="flat"):
        for _ in range(100):
            alarm.on_log(None, State, None, {"loss": 2.5})
    falling = DivergenceCallback()
    for step in range(100):
        falling.on_log(None, State, None, {"loss": 2.5 - step / 1000})


def test_the_data_is_checked_before_a_model_is_opened(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid row must fail before a 6B is loaded, which takes minutes; `--check` loads none."""
    monkeypatch.setattr(run, "load", lambda *_, **__: pytest.fail("the model was opened"))
    good = recipe()
    bad = recipe(data=written(Path(good.data).parent, [*rows(3), {"img": "gone.png"}], "bad.json"))
    with pytest.raises(UsageError, match="row 4"):
        run.finetune(bad, silent, device="cpu")
    said: list[str] = []
    assert run.check(good, said.append) == 0 and run.check(bad, said.append) == 1
    assert any("row 4" in line for line in said)
