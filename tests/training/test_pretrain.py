"""Training: a few seconds of each stage lower the loss, and a run goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from visualglm.conversation import packed_model
from visualglm.prompt import Turn, build_training_row
from visualglm.scenes.seeds import Split
from visualglm.training.batches import Batch
from visualglm.training.pretrain import Trainer
from visualglm.training.recipe import ModelSizes, Recipe, Stage

SMALL = ModelSizes(vision_layers=1, vision_hidden=64, qformer_layers=1, qformer_hidden=64, layers=1, hidden=128)
STAGES = {
    kind: Stage(name=kind, kind=kind, minutes=0.05, pictures=8, rows=3, learning_rate=2e-3)
    for kind in ("patches", "zones", "dialogue")
}


def trainer(folder: Path, *kinds: str) -> Trainer:
    vocabulary = str(packed_model() / "ice_text.model")
    stages = tuple(STAGES[kind] for kind in kinds)
    return Trainer(Recipe(str(folder), vocabulary, bfloat16=False, model=SMALL, stages=stages))


def first_batch(run: Trainer, stage: Stage) -> Batch:
    return next(iter(run._batches(stage, 0, Split.TRAIN)))


@pytest.mark.parametrize("kind", list(STAGES))
def test_the_loss_falls(tmp_path: Path, kind: str) -> None:
    run = trainer(tmp_path, kind)
    stage, batch = STAGES[kind], first_batch(run, STAGES[kind])
    optimizer = run._optimizer(stage)
    losses = [run._train_step(stage, batch, optimizer)["loss"] for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_rows_are_what_the_prompt_module_writes(tmp_path: Path) -> None:
    run = trainer(tmp_path, "dialogue")
    data = run._batches(STAGES["dialogue"], 0, Split.TRAIN)
    exchange = next(e for e in data._questions(_scene(data)) if e.with_picture)
    turns = [Turn(q, a) for q, a in exchange.history] + [Turn(exchange.question, exchange.answer)]
    turns[0] = replace(turns[0], pictures=1)
    config = run.model.config
    ids, labels = build_training_row(
        run.tokenizer,
        turns,
        language=exchange.language,
        image_token_id=int(config.image_token_id or 0),
        image_length=config.image_length,
    )
    prompt, answer = run.prompts.prompt(exchange), run.prompts.answer(exchange)
    assert prompt + answer == ids
    assert labels[-len(answer) :] == answer


def _scene(data: object) -> object:
    from visualglm.scenes import scene_of

    return scene_of(5)


def test_a_run_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    run = trainer(tmp_path, "zones")
    stage, batch = STAGES["zones"], first_batch(run, STAGES["zones"])
    optimizer = run._optimizer(stage)
    run._train_step(stage, batch, optimizer)
    run.step, run.seconds = 1, 2.0
    run.save(optimizer)
    again = trainer(tmp_path, "zones")
    assert (again.step, again.seconds) == (1, 2.0)
    losses = [r._train_step(stage, batch, o)["loss"] for r, o in ((run, optimizer), (again, again._optimizer(stage)))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(run.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_whole_run_of_seconds_ends_and_logs(tmp_path: Path) -> None:
    trainer(tmp_path, "zones").run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["stage"] == "zones"
    assert json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))["stage"] == 1
    assert (tmp_path / "model" / "model.safetensors").exists()
