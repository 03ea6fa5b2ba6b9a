"""The study of image tokens: every condition trains, is measured, and goes on after a stop."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from visualglm.errors import UsageError
from visualglm.hub.local_folder import packed_model
from visualglm.pretraining import trainer as product_trainer
from visualglm.pretraining.config import ModelSizes
from visualglm_lab.token_study import __main__ as command
from visualglm_lab.token_study import figures, study, trainer
from visualglm_lab.token_study.config import STAGES, Job, StudyConfig, read_study_config
from visualglm_lab.token_study.measurements import read_log
from visualglm_lab.token_study.scene_batches import FIRST_SEED
from visualglm_lab.token_study.trainer import StudyTrainer

RECIPE = Path(__file__).parents[2] / "recipes" / "study" / "recipe.toml"
TINY = ModelSizes(
    image_size=32,
    patch_size=8,
    vision_layers=1,
    vision_hidden=64,
    qformer_layers=1,
    qformer_hidden=64,
    layers=1,
    hidden=64,
    vocab_size=7430,
)
CONDITIONS = ["queries-4", "patches", "codes-16", "codes-64", "patch-codes"]


def tiny_plan(folder: Path, **changes: object) -> StudyConfig:
    plan = read_study_config(RECIPE)
    short = {name: replace(getattr(plan, name), steps=2, images=2) for name in STAGES}
    sizes = {"model": TINY, "codebook": 16, "channels": 8, "test_scenes": 1, "judged_scenes": 1, "processes": 1}
    paths = {"output": str(folder / "runs"), "results": str(folder / "results.json")}
    vocabulary = str(packed_model() / "ice_text.model")
    settings = {"vocabulary": vocabulary, "conditions": CONDITIONS, "seeds": [0], **paths, **short, **sizes, **changes}
    return replace(plan, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, dict]:
    """Return a study of every kind of condition, run to its end."""
    plan = tiny_plan(tmp_path_factory.mktemp("study"))
    patch = pytest.MonkeyPatch()
    patch.setattr(product_trainer, "LOG_EVERY", 1)
    patch.setattr(trainer, "CODEBOOK_BATCHES", 2)
    result = study.run_study(plan, lambda line: None)
    patch.undo()
    return plan, result


def test_every_condition_is_trained_and_measured(finished: tuple[StudyConfig, dict]) -> None:
    plan, result = finished
    assert list(result["reading"]) == ["codes-64", "patches", "codes-16", "patch-codes", "queries-4"]
    assert list(result["tokenizer"]) == list(result["drawing"]) == ["codes-16", "codes-64"]
    for stage in ("tokenizer", "reading", "drawing"):
        for seeds in result[stage].values():
            one = seeds["0"]
            assert one["failure"] is None and one["seconds_per_step"] > 0
            assert [step for step, _ in one["curve"]] == [1, 2]
            assert 0 <= one["right"]["share"] <= 1 and one["right"]["n"] > 0
    assert json.loads(Path(plan.results).read_text(encoding="utf-8"))["means"] == result["means"]


def test_the_language_model_has_equal_weights_in_all_conditions(finished: tuple[StudyConfig, dict]) -> None:
    _, result = finished
    parameters = {name: seeds["0"]["parameters"] for name, seeds in result["reading"].items()}
    assert len({count["language"] for count in parameters.values()}) == 1
    assert parameters["codes-16"]["image"] == 0 < parameters["codes-16"]["frozen"]


def test_a_finished_study_runs_nothing_again(
    finished: tuple[StudyConfig, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, result = finished
    monkeypatch.setattr(study, "run_job", lambda plan, job: pytest.fail(f"{job.name} ran again"))
    assert study.run_study(plan, lambda line: None)["reading"] == result["reading"]
    with pytest.raises(UsageError, match="most, codebook of the recipe differ from the study in"):
        study.run_study(replace(plan, codebook=8, most=1), lambda line: None)


def test_tables_and_figures_come_from_the_results(
    finished: tuple[StudyConfig, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, result = finished
    monkeypatch.syspath_prepend(str(RECIPE.parents[3] / "benchmarks"))
    quote = importlib.import_module("quote")
    monkeypatch.setattr(quote, "stored", lambda name: result)
    figures.draw_all(result, tmp_path)
    for language in ("en", "zh"):
        text = quote.token_study(language)
        assert f"{result['means']['patches']['right']['share']:.2f}" in text
        assert f"| {result['tokenizer']['codes-64']['0']['squared_error']:.4f} |" in text
        shown = re.findall(r"\(\.\./images/(.*)\)", text)
        assert len(shown) == 3 and all((tmp_path / name).exists() for name in shown)


def test_a_stopped_job_goes_on_from_its_last_save(
    finished: tuple[StudyConfig, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in step 2 of 2 after a save, it takes one more step; its result is that of the run without a stop."""
    plan, result = finished
    job = Job("reading", plan.parse_conditions()[0], 0)
    folder = plan.folder(job)
    again = replace(plan, output=str(folder.parent.parent / "stopped"), save_minutes=0.0)
    again.folder(job).parent.mkdir()
    for start in (Job("language"), Job("vision")):
        again.folder(start).symlink_to(plan.folder(start))
    monkeypatch.setattr(product_trainer, "LOG_EVERY", 1)
    steps = []

    def step(run: StudyTrainer, *arguments: object) -> dict[str, float]:
        steps.append(run.step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return whole(run, *arguments)

    whole = StudyTrainer.train_step
    monkeypatch.setattr(StudyTrainer, "train_step", step)
    with pytest.raises(KeyboardInterrupt):
        study.run_job(again, job)
    study.run_job(again, job)
    assert steps == [0, 1, 1]
    assert read_log(again.folder(job))["curve"] == [
        tuple(point) for point in result["reading"]["queries-4"]["0"]["curve"]
    ]


def test_a_run_that_diverges_is_a_result(
    finished: tuple[StudyConfig, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = finished
    job = Job("tokenizer", plan.parse_conditions()[2])
    alone = replace(plan, output=str(tmp_path))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *arguments: torch.tensor(torch.nan))
    assert "the gradient nan" in study.run_job(alone, job)
    assert "nan" in json.loads((alone.folder(job) / study.RESULT).read_text(encoding="utf-8"))["failure"]
    assert study.mean_of([{"failure": "nan"}]) == {"failures": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('conditions=["words-4"]', "words-4 is not a condition"),
        ('conditions=["queries-0"]', "queries-0 is not a condition"),
        ('conditions=["patches-4"]', "patches-4 is not a condition"),
        ('conditions=["codes-100"]', "codes-100 does not fit images of 128 pixels"),
        ("conditions=[]", "Give a list of texts"),
        ("seeds=[0.5]", "Give a list of whole numbers"),
        ("reading=3", "Give a table of settings"),
        ('tasks=["colours"]', "Did you mean colour?"),
        ("step=4", "step in the recipe is not a setting"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_sentence(change: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(RECIPE), "--set", change, "--check"]) == 2
    assert said in capsys.readouterr().err


def test_the_recipe_has_equal_weights_with_and_without_a_qformer() -> None:
    plan = read_study_config(RECIPE)
    assert 12 * plan.patch_blocks == 16 * plan.model.qformer_layers
    sizes = [plan.sizes(condition) for condition in plan.parse_conditions()]
    assert all(size.vocab_size == 7413 + plan.codebook + 1 for size in sizes)


def test_all_runs_share_a_vit_and_its_codes_and_train_neither(finished: tuple[StudyConfig, dict]) -> None:
    plan, _ = finished
    queries, patches, *_, codes = plan.parse_conditions()
    runs = [StudyTrainer(plan, Job("reading", condition, 0), lambda line: None) for condition in (queries, patches)]
    trained = [{name for name in run.objective.learning("reading") if ".vit." in name} for run in runs]
    assert trained == [set(), set()]
    weights = [run.frozen.state_dict() for run in runs]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    first, second = (StudyTrainer(plan, Job("reading", codes, seed), lambda line: None) for seed in (0, 1))
    pixels = torch.randn(2, 3, 32, 32)
    found = [run.model.image_encoder.encode(pixels) for run in (first, second)]
    assert found[0].shape == (2, 16) and torch.equal(*found) and int(found[0].max()) < plan.codebook


def test_no_two_seeds_share_a_scene() -> None:
    plan = read_study_config(RECIPE)
    most = max(getattr(plan, name).steps * getattr(plan, name).images for name in ("tokenizer", "reading", "drawing"))
    assert most < FIRST_SEED
