"""Vectors sampled around the classes, what is answered about them, and training on them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from visualglm.errors import UsageError
from visualglm.evaluation.scenes.concepts import by_key
from visualglm.evaluation.scenes.question_templates import QUESTIONS
from visualglm.hub.local_folder import packed_model
from visualglm.network.stem import CLASSES, ConvolutionalStem
from visualglm.network.vision import is_frozen
from visualglm.pretraining.config import Checkpoints
from visualglm.pretraining.optimizer import adamw
from visualglm_lab.training.class_prototypes import PrototypeSampler, write_features
from visualglm_lab.training.config import SceneStage, SceneTrainingConfig
from visualglm_lab.training.imagenet_classes import named_kinds
from visualglm_lab.training.losses import replaced_features
from visualglm_lab.training.opinion_answers import (
    KEPT_FOR_TESTS,
    NOT_SURE,
    THERE_IS,
    about_background,
    answer_for,
    category_for,
    question_about,
)
from visualglm_lab.training.stem_features import CROPS, SIDE, write_album_features
from visualglm_lab.training.stem_weights import NAME, StemWeights
from visualglm_lab.training.trainer import SceneTrainer

Features = dict[str, torch.Tensor]
KEYS = [kind.key for kind in named_kinds()]
STAGE = SceneStage("stem", "dialogue", steps=3, images=4, rows=2, prototypes=1.0, learning_rate=3e-3)


def opinion(**chances: float) -> torch.Tensor:
    found = torch.zeros(len(KEYS))
    for key, chance in chances.items():
        found[KEYS.index(key.replace("_", " "))] = chance
    return found


def test_vectors_are_believed_as_much_as_was_drawn_and_look_real(classifier: Features) -> None:
    sampler = PrototypeSampler(**classifier)
    vectors = sampler.sample(200, np.random.default_rng(0))
    belief = sampler.probabilities(vectors).max(-1).values
    assert (belief >= 0.3).float().mean() > 0.9 and 0.4 < belief.median() < 0.99
    assert vectors.min() >= 0
    assert vectors.norm(dim=-1).mean() < 2 * classifier["features"].norm(dim=-1).mean()
    assert torch.equal(vectors, sampler.sample(200, np.random.default_rng(0)))


def test_vectors_are_seen_beside_scenes_photographs_and_noise(classifier: Features) -> None:
    """The images are of kinds that real vectors come with, so that only the vector tells what to answer."""
    pixels = torch.full((5, 3, 8, 8), 7.0)
    sampler = PrototypeSampler(**classifier, photographs=torch.full((5, 1280), 2.0), pixels=pixels)
    rng = np.random.default_rng(0)
    seen, photographed = sampler.images(torch.zeros(200, 3, 8, 8), rng)
    assert torch.equal(photographed, (seen == 7).flatten(1).all(-1))
    scenes = (seen == 0).flatten(1).all(-1).float().mean()
    assert 0.25 < photographed.float().mean() < 0.45 and 0.4 < scenes < 0.6
    drawn = sampler.crops(3, rng)
    assert drawn is not None and drawn[0].shape == (3, 3, 8, 8) and (drawn[1] == 2).all()
    assert PrototypeSampler(**classifier).crops(3, rng) is None


def test_features_of_an_album_and_photographs_are_written_once(album: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    album = Path(shutil.copytree(album, tmp_path / "album"))
    stem = StemWeights(ConvolutionalStem(NAME).state_dict())
    write_album_features(album, stem, [packed_model() / "samples" / "moon.png"])
    rows = np.load(album / "features.npy")
    assert len(rows) == len(np.load(album / "album.npy"))
    sampler = PrototypeSampler.load(album)
    assert len(sampler.features) == 16
    assert sampler.photographs is not None and sampler.photographs.shape == (1 + CROPS, 1280)
    assert sampler.pixels is not None and sampler.pixels.shape == (1 + CROPS, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    "chances, zh, en",
    [
        ({"dog": 0.95}, "这是一只狗。", "It is a dog."),
        ({"duck": 0.5, "eagle": 0.45}, "这是一只鸟。", "It is a bird."),
        ({"duck": 0.5, "eagle": 0.3}, "我不确定，可能是一只鸭子。", "I am not sure, but it may be a duck."),
        (
            {"lion": 0.3, "zebra": 0.3, "snail": 0.3},
            "我不确定，只看得出是动物。",
            "I am not sure, but it is an animal.",
        ),
        ({"lion": 0.3, "laptop": 0.3}, NOT_SURE["zh"], NOT_SURE["en"]),
        ({}, NOT_SURE["zh"], NOT_SURE["en"]),
    ],
)
def test_an_answer_says_no_more_than_is_likely(chances: dict[str, float], zh: str, en: str) -> None:
    assert answer_for(opinion(**chances), "zh") == zh
    assert answer_for(opinion(**chances), "en") == en


def test_the_concept_head_guesses_where_the_classifier_does_not() -> None:
    snowman = by_key()["snowman"]
    assert answer_for(opinion(lion=0.3), "en", guess=snowman) == "I am not sure, but it may be a snowman."
    assert answer_for(opinion(lion=0.6), "en", guess=snowman) == "I am not sure, but it may be a lion."
    assert answer_for(opinion(lion=0.95), "en", guess=snowman) == "It is a lion."
    asked = [question_about(opinion(lion=0.3), snowman, "en", np.random.default_rng(seed)) for seed in range(40)]
    assert {one.truth for one in asked} == {"snowman", ""}


def test_an_inventory_is_answered_in_its_own_form() -> None:
    assert answer_for(opinion(dog=0.95), "zh", THERE_IS) == "图中有一只狗。"
    assert answer_for(opinion(dog=0.95), "en", THERE_IS) == "There is a dog."


def test_a_category_is_stated_if_the_kinds_agree_on_one() -> None:
    assert category_for(opinion(lion=0.4, snail=0.4), "zh") == "它是动物。"
    assert category_for(opinion(lion=0.4, snail=0.4), "en") == "It is an animal."
    assert category_for(opinion(lion=0.4, laptop=0.4), "en") == NOT_SURE["en"]


def test_blurred_vectors_leave_the_classifiers_opinion_alone(classifier: Features) -> None:
    """Of some vectors only what the classifier says of them stays: the pooled features are of something unclear."""
    sampler, rng = PrototypeSampler(**classifier), np.random.default_rng(0)
    vectors = sampler.sample(300, rng)
    blurred = sampler.blurred(vectors, rng, torch.zeros(len(vectors), dtype=torch.bool))
    kept = (blurred == vectors).all(-1)
    assert 0.3 < kept.float().mean() < 0.5
    assert 0.07 < (sampler.unclear(vectors, rng) != vectors).any(-1).float().mean() < 0.25
    lengths = [found[~kept].norm(dim=-1).mean() for found in (blurred, vectors)]
    assert 0.7 < lengths[0] / lengths[1] < 1.4


def test_a_photograph_is_asked_for_its_background() -> None:
    asked = [about_background("en", np.random.default_rng(seed)) for seed in range(20)]
    assert {one.answer for one in asked} == {"The background is a photograph."}
    assert all("background" in one.question for one in asked) and len({one.question for one in asked}) > 1


def test_some_wordings_are_kept_for_tests() -> None:
    rng = np.random.default_rng(0)
    asked = {question_about(opinion(dog=1.0), None, "en", rng).question for _ in range(300)}
    assert not asked & set(QUESTIONS["name"]["en"][-KEPT_FOR_TESTS:])


def trainer(folder: Path, stem_start: Path, album: Path, classifier: Features) -> SceneTrainer:
    write_features(album, **classifier)
    plan = SceneTrainingConfig(
        str(folder), str(packed_model() / "ice_text.model"), bfloat16=False, threads=1, workers=0, album=str(album),
        start=Checkpoints(model=str(stem_start)), stages=(STAGE,),
    )  # fmt: skip
    return SceneTrainer(plan, lambda line: None)


def test_training_on_them_lowers_their_loss_and_leaves_the_stem(
    tmp_path: Path, stem_start: Path, album: Path, classifier: Features
) -> None:
    run = trainer(tmp_path, stem_start, album, classifier)
    batch = next(iter(run.batches(STAGE, 0)))
    named = run.objective.learning(STAGE.kind)
    assert not [name for name in named if is_frozen(name)]
    optimizer = adamw(STAGE, named)
    reports = [run.train_step(STAGE, batch, optimizer) for _ in range(8)]
    assert reports[-1]["prototypes"] < 0.8 * reports[0]["prototypes"]


def test_features_stand_in_for_the_stems_own_only_inside(
    tmp_path: Path, stem_start: Path, album: Path, classifier: Features
) -> None:
    encoder = trainer(tmp_path, stem_start, album, classifier).model.image_encoder.eval()
    torch.nn.init.normal_(encoder.concept_head.proj.weight)
    torch.nn.init.normal_(encoder.class_proj.weight)
    pixels, pooled, logits = torch.randn(2, 3, 96, 96), torch.rand(2, 1280), 5 * torch.randn(2, CLASSES)
    with torch.no_grad():
        own = encoder(pixels)[0]
        with replaced_features(encoder.vit, pooled, logits):
            other = encoder(pixels)[0]
        changed = (other - own).abs().amax(dim=(0, 2))
        assert (changed[-2:] > 0).all() and (changed[:-2] == 0).all() and torch.equal(encoder(pixels)[0], own)
        expected = encoder.class_proj(logits.softmax(-1) - encoder.vit.mixins["patch_embedding"].stem.classify(pooled))
    assert expected.abs().max() > 0.1


def test_prototypes_need_a_stem_and_its_features(
    tmp_path: Path, stem_start: Path, album: Path, classifier: Features
) -> None:
    write_features(album, **classifier)
    plan = SceneTrainingConfig(
        str(tmp_path), str(packed_model() / "ice_text.model"), album=str(album), stages=(STAGE,)
    )  # fmt: skip
    with pytest.raises(UsageError, match="stem_weights"):
        SceneTrainer(plan, lambda line: None)
    with pytest.raises(UsageError, match="stem_features"):
        PrototypeSampler.load(tmp_path)
