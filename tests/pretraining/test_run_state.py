"""A run's folder: consistent after a kill at any time; another recipe cannot resume it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from visualglm.errors import CheckpointError, UsageError
from visualglm.hub.local_folder import packed_model
from visualglm.pretraining.config import Checkpoints, ModelSizes, PretrainingConfig, Stage
from visualglm.pretraining.run_state import read_run_state, saving, settle
from visualglm.pretraining.trainer import Trainer

SMALL = ModelSizes(
    image_size=96, vision_layers=1, vision_hidden=64, qformer_layers=1, qformer_hidden=64, layers=1, hidden=64
)
ANSWERS, ALIGNMENT = (Stage(kind, kind, steps=1, images=2) for kind in ("answers", "alignment"))
PIECES = ("model/model.safetensors", "optimizer-0.safetensors", "progress.json", "throwaway.safetensors")
CALLS = ("mkdir", "rename", "replace", "rmdir", "unlink")


def save(folder: Path, text: str) -> None:
    with saving(folder) as fresh:
        for piece in PIECES:
            (fresh / piece).parent.mkdir(exist_ok=True)
            (fresh / piece).write_text(text)


def test_a_kill_at_any_call_leaves_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the second save before its first, second, ... rename, until one save completes."""
    seen, killed = set(), True
    real = {name: getattr(os, name) for name in CALLS}
    while killed:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        save(folder, "one")
        left = len(list(tmp_path.iterdir())) - 1

        def call(name: str, *arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real[name](*arguments, **named)

        for name in CALLS:
            monkeypatch.setattr(os, name, lambda *a, name=name, **k: call(name, *a, **k))
        try:
            save(folder, "two")
            killed = False
        except KeyboardInterrupt:
            pass
        monkeypatch.undo()
        settle(folder)
        state = {(folder / piece).read_text() for piece in PIECES}
        assert len(state) == 1, "of one save"
        seen |= state
        assert sorted(path.name for path in folder.iterdir()) == sorted({Path(piece).parts[0] for piece in PIECES})
    assert seen == {"one", "two"} and state == {"two"}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> PretrainingConfig:
    """Return a recipe whose two stages have run."""
    data, output = tmp_path_factory.mktemp("data"), str(tmp_path_factory.mktemp("run"))
    Image.new("RGB", (40, 30)).save(data / "a.png")
    (data / "rows.jsonl").write_text(2 * '{"image": "a.png", "en": "Nothing."}\n', encoding="utf-8")
    ran = PretrainingConfig(output, str(packed_model() / "ice_text.model"), captions=str(data / "rows.jsonl"))
    ran = replace(ran, bfloat16=False, threads=1, workers=0, model=SMALL, stages=(ANSWERS, ANSWERS))
    Trainer(ran, lambda line: None).run()
    return ran


def test_a_run_that_has_ended_says_so(ended: PretrainingConfig) -> None:
    said: list[str] = []
    Trainer(ended, said.append).run()
    assert len(said) == 1 and "already finished" in said[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 9}, "seed"),
        ({"model": replace(SMALL, hidden=128)}, "model"),
        ({"stages": (ALIGNMENT, ANSWERS, ANSWERS)}, "stages"),
        ({"stages": (ANSWERS,)}, "stages"),
    ],
)
def test_another_recipe_does_not_go_on(ended: PretrainingConfig, changes: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=f"^{named} of the recipe differ"):
        Trainer(replace(ended, **changes), lambda line: None)  # type: ignore[arg-type]


def test_stages_may_last_longer_and_more_may_follow(ended: PretrainingConfig) -> None:
    longer = tuple(replace(stage, steps=5) for stage in ended.stages)
    assert Trainer(replace(ended, stages=(*longer, ALIGNMENT)), lambda line: None).stage_index == 2


def test_resumed_weights_are_checked(ended: PretrainingConfig, tmp_path: Path) -> None:
    shutil.copytree(ended.output, tmp_path / "run")
    file = tmp_path / "run" / "model" / "model.safetensors"
    good = load_file(file)
    name = "transformer.final_layernorm.weight"
    for value, fault in ((torch.full_like(good[name], float("nan")), "holds NaN"), (good[name][:3], "another shape")):
        save_file(good | {name: value.contiguous()}, file)
        with pytest.raises(UsageError, match=f"model.safetensors is damaged .*{name} .*{fault}|{fault} .*{name}"):
            Trainer(replace(ended, output=str(tmp_path / "run")), lambda line: None)


def test_a_start_that_is_not_finite_is_named(ended: PretrainingConfig, tmp_path: Path) -> None:
    shutil.copytree(Path(ended.output) / "model", tmp_path / "start")
    file = tmp_path / "start" / "model.safetensors"
    good = load_file(file)
    name = "image_encoder.glm_proj.bias"
    save_file(good | {name: good[name].fill_(float("nan"))}, file)
    for start in (Checkpoints(model=str(tmp_path / "start")), Checkpoints(vision=str(tmp_path / "start"))):
        with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinite values"):
            Trainer(replace(ended, output=str(tmp_path / "run"), start=start), lambda line: None)


def test_a_loss_that_is_not_finite_never_reaches_the_weights(
    ended: PretrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(replace(ended, output=str(tmp_path / "run")), lambda line: None)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    forward = trainer.objective.forward
    monkeypatch.setattr(trainer.objective, "forward", lambda *given: (forward(*given)[0] * float("nan"), {}))
    with pytest.raises(UsageError, match="stopped at step 0: the loss is nan"):
        trainer.run()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("content", ["", "[]", '{"stages": 1}', '{"stage": 1, "step": 7, "seconds": 2.5}'])
def test_broken_progress_costs_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "progress.json").write_text(content)
    with pytest.raises(UsageError, match="is damaged"):
        read_run_state(tmp_path, {})
