"""Training: a few steps of every stage reduce the loss, and an interrupted run resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from visualglm.errors import UsageError
from visualglm.evaluation.scenes import scene_of
from visualglm.hub.local_folder import packed_model
from visualglm.preprocessing.prompt import Turn, build_training_row
from visualglm.pretraining.batches import block_of
from visualglm.pretraining.config import MAX_STAGES, Checkpoints, ModelSizes
from visualglm.pretraining.losses import answer_logits
from visualglm.pretraining.optimizer import adamw, set_rate
from visualglm_lab.training.config import KINDS, SceneStage, SceneTrainingConfig
from visualglm_lab.training.losses import SCENE_LEARNING
from visualglm_lab.training.scene_batches import SceneBatch, SceneBatches, fact_of, weigh_fact
from visualglm_lab.training.trainer import SceneTrainer

SMALL = ModelSizes(
    image_size=96, vision_layers=1, vision_hidden=64, qformer_layers=1, qformer_hidden=64, layers=1, hidden=128
)
STAGES = {kind: SceneStage(kind, kind, steps=3, images=8, rows=3, learning_rate=3e-3) for kind in KINDS}


def recipe(folder: Path, *kinds: str, **changes: object) -> SceneTrainingConfig:
    vocabulary = str(packed_model() / "ice_text.model")
    plan = SceneTrainingConfig(str(folder), vocabulary, bfloat16=False, threads=1, workers=0, model=SMALL)
    return replace(plan, stages=tuple(STAGES[kind] for kind in kinds), **changes)  # type: ignore[arg-type]


def trainer(folder: Path, *kinds: str, **changes: object) -> SceneTrainer:
    return SceneTrainer(recipe(folder, *kinds, **changes), lambda line: None)


def first_batch(run: SceneTrainer, stage: SceneStage) -> SceneBatch:
    batch = next(iter(run.batches(stage, 0)))
    assert isinstance(batch, SceneBatch)
    return batch


@pytest.mark.parametrize("kind", list(STAGES))
def test_the_loss_falls_and_only_its_part_learns(tmp_path: Path, kind: str) -> None:
    run = trainer(tmp_path, kind)
    stage, batch = STAGES[kind], first_batch(run, STAGES[kind])
    before = {name: value.clone() for name, value in run.objective.state_dict().items()}
    optimizer = adamw(stage, run.objective.learning(kind))
    losses = [run.train_step(stage, batch, optimizer)["loss"] for _ in range(14)]
    # what a random, frozen language model wants to hear can hardly be learned
    assert losses[-1] < (1.0 if kind == "alignment" else 0.9) * losses[0]
    moved = {name for name, value in run.objective.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(SCENE_LEARNING[kind]) for name in moved)


def test_rows_are_what_the_prompt_module_writes(tmp_path: Path) -> None:
    run = trainer(tmp_path, "dialogue")
    data = run.batches(STAGES["dialogue"], 0)
    assert isinstance(data, SceneBatches)
    exchange = next(e for e in data._questions(scene_of(5)) if e.with_image)
    turns = [Turn(q, a) for q, a in exchange.history] + [Turn(exchange.question, exchange.answer)]
    turns[0] = replace(turns[0], image_count=1)
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


def test_facts_are_the_words_that_state_the_truth(tmp_path: Path) -> None:
    run = trainer(tmp_path, "dialogue")
    data = run.batches(STAGES["dialogue"], 0)
    assert isinstance(data, SceneBatches)
    said = {e.task: e for seed in range(40) for e in data._questions(scene_of(seed))}
    for task in ("relation", "where", "colour", "count"):
        row = run.prompts.row(0, said[task])
        fact = fact_of(row.answer, said[task].truth, run.tokenizer)
        assert run.tokenizer.decode([row.answer[n] for n in fact]) == said[task].truth
        weighed = weigh_fact(row, said[task].truth, run.tokenizer, 3.0)
        rows = block_of([weighed, run.prompts.row(1, said["exists"])], int(run.tokenizer.pad_token_id))
        assert rows.targets[0][rows.weights[0] == 3].tolist() == [row.answer[n] for n in fact]
        assert (rows.weights[1] == 1).all()
    exists = run.prompts.row(0, said["exists"])
    assert not fact_of(exists.answer, said["exists"].truth, run.tokenizer)  # "Yes, there is": its truth is yes or no


@torch.no_grad()
def test_facts_weigh_more_where_the_stage_says_so(tmp_path: Path) -> None:
    run = trainer(tmp_path, "text")
    stages = [replace(STAGES["text"], fact_weight=weight) for weight in (1.0, 1e6)]
    batches = [first_batch(run, stage) for stage in stages]
    plain, weighed = (float(run.objective.eval().language_loss(batch, None)) for batch in batches)
    facts, total = 0.0, 0.0
    for rows in batches[1].rows:
        losses = F.cross_entropy(
            answer_logits(run.model, rows, None).flatten(0, 1), rows.targets.flatten(), reduction="none"
        )
        stated = rows.weights > 1
        share = ((rows.targets >= 0).sum(dim=1, keepdim=True) ** -0.5).expand_as(stated)[stated]
        facts += float((losses.view_as(stated)[stated] * share).sum())
        total += float(share.sum())
    assert weighed == pytest.approx(facts / total, rel=1e-3)
    assert weighed != pytest.approx(plain, rel=1e-3)


def test_a_run_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    """Interrupted at step 2 of 4 and resumed equals uninterrupted, bit for bit."""
    whole, halves = recipe(tmp_path / "whole", "zones"), recipe(tmp_path / "halves", "zones")
    four = (replace(STAGES["zones"], steps=4),)
    SceneTrainer(replace(whole, stages=four), lambda line: None).run()
    run = SceneTrainer(replace(halves, stages=four), lambda line: None)
    optimizer = adamw(four[0], run.objective.learning("zones"))
    _steps(run, four[0], optimizer, 0, 2)
    run.save(optimizer)
    SceneTrainer(replace(halves, stages=four), lambda line: None).run()
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def _steps(run: SceneTrainer, stage: SceneStage, optimizer: torch.optim.Optimizer, first: int, end: int) -> None:
    data = iter(run.batches(stage, first))
    for step in range(first, end):
        set_rate(optimizer, stage, step / stage.steps)
        run.train_step(stage, next(data), optimizer)
        run.step += 1


def test_the_last_stage_of_small_batches_validates(tmp_path: Path) -> None:
    """Its seeds stay in the split, although validation batches are larger than its own."""
    run = trainer(tmp_path, *["text"] * MAX_STAGES)
    run.stage_index = MAX_STAGES - 1
    stage = replace(STAGES["text"], images=2)
    assert next(iter(run.batches(stage, 0, validation=True))).rows


def test_every_kind_of_stage_has_a_loss_and_others_have_none(tmp_path: Path) -> None:
    assert set(SCENE_LEARNING) == set(KINDS)
    run = trainer(tmp_path, "text")
    with pytest.raises(KeyError):
        run.objective(replace(STAGES["text"], kind="later"), first_batch(run, STAGES["text"]))


def test_a_whole_run_ends_and_logs(tmp_path: Path) -> None:
    trainer(tmp_path, "text", "zones", save_minutes=0.0).run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["stage"] for line in lines if "learning" in line] == ["text", "zones"]
    assert [line["step"] for line in lines if "exact" in line] == [1, 2, 3], "after every save; zones answer nothing"
    assert json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))["stage"] == 2
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_collapsed_queries_raise_an_alarm(tmp_path: Path) -> None:
    run = trainer(tmp_path, "zones")
    with torch.no_grad():
        run.model.image_encoder.qformer.transformer.word_embeddings.weight.zero_()
    stage = STAGES["zones"]
    run.train_step(stage, first_batch(run, stage), adamw(stage, run.objective.learning("zones")))
    assert "alarm" in (tmp_path / "log.jsonl").read_text(encoding="utf-8")


def test_parts_begin_from_checkpoints(tmp_path: Path) -> None:
    trainer(tmp_path / "one", "patches").run()
    folder = str(tmp_path / "one" / "model")
    run = trainer(tmp_path / "two", "dialogue", start=Checkpoints(vision=folder), seed=9)
    trained = load_file(Path(folder) / "model.safetensors")
    own = run.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in trained.items() if ".vit." in name)
    assert not all(torch.equal(own[name], value) for name, value in trained.items() if ".qformer." in name)


def test_a_part_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The vision of .* does not fit"):
        trainer(tmp_path, "dialogue", start=Checkpoints(vision=str(packed_model())))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": replace(SMALL, queries=9)}, "9 queries are too few"),
        ({"model": replace(SMALL, vocab_size=100)}, "vocab_size 100 is too small"),
        ({"stages": (replace(STAGES["zones"], teacher_loss=1.0),)}, "has no features.npy"),
    ],
)
def test_what_does_not_fit_is_told_before_the_work(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        SceneTrainer(replace(recipe(tmp_path, "zones"), **changes), lambda line: None)  # type: ignore[arg-type]


def test_gradient_checkpointing_gives_the_same_loss(tmp_path: Path) -> None:
    losses = []
    for checkpointing in (False, True):
        run = trainer(tmp_path / str(checkpointing), "dialogue", gradient_checkpointing=checkpointing)
        stage = STAGES["dialogue"]
        optimizer = adamw(stage, run.objective.learning("dialogue"))
        losses.append([run.train_step(stage, first_batch(run, stage), optimizer)["loss"] for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
