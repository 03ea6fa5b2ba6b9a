"""Questions about drawn scenes: answers are true, and yes and no are equally frequent."""

from __future__ import annotations

import numpy as np
import pytest

from visualglm.evaluation.answer_matching import is_right
from visualglm.evaluation.scenes import answers, exchanges, scene_of
from visualglm.evaluation.scenes.answers import article
from visualglm.evaluation.scenes.concepts import by_key, kinds, overlap
from visualglm.evaluation.scenes.kinds import COLOURS, Language
from visualglm.evaluation.scenes.qa_pair import name
from visualglm.evaluation.scenes.questions import TASKS, exchange_of, without_image
from visualglm.evaluation.scenes.scene import SceneMix

LANGUAGES: tuple[Language, ...] = ("zh", "en")
FRAMED = SceneMix(letters=0.1, frames=0.4)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_true_answer_is_judged_right(language: Language) -> None:
    for seed in range(60):
        for exchange in exchanges(scene_of(seed, 6, mix=FRAMED), language, np.random.default_rng(seed)):
            assert is_right(exchange, exchange.answer), exchange


@pytest.mark.parametrize("language", LANGUAGES)
def test_descriptions_name_every_object_with_colour_and_place(language: Language) -> None:
    for seed in range(30):
        scene = scene_of(seed)
        exchange = exchange_of("describe", scene, language, np.random.default_rng(seed))
        assert exchange is not None
        for item in scene.items:
            assert item.colour is not None
            names = (item.kind.zh[0], item.colour.zh, item.zone.zh)
            names = names if language == "zh" else (item.kind.en[0], item.colour.key, item.zone.en)
            assert all(name in exchange.answer for name in names)


def test_yes_and_no_are_even() -> None:
    rng = np.random.default_rng(0)
    asked = [exchange_of("exists", scene_of(seed), "zh", rng) for seed in range(400)]
    share = np.mean([exchange is not None and exchange.truth == "yes" for exchange in asked])
    assert 0.42 < share < 0.58


def test_a_follow_up_refers_to_an_earlier_turn() -> None:
    made = [exchange_of("follow-up", scene_of(s), "zh", np.random.default_rng(s)) for s in range(40)]
    turns = [exchange for exchange in made if exchange is not None]
    assert turns
    assert all(exchange.history for exchange in turns)
    assert {"它在", "它是"} == {exchange.answer[:2] for exchange in turns}


def test_every_task_arises() -> None:
    rng = np.random.default_rng(1)
    for task in TASKS:
        assert any(exchange_of(task, scene_of(seed, mix=FRAMED), "en", rng) for seed in range(60)), task


def test_questions_in_english_have_no_chinese() -> None:
    for seed in range(20):
        for exchange in exchanges(scene_of(seed), "en", np.random.default_rng(seed)):
            assert (exchange.question + exchange.answer).isascii()
    assert without_image("en", np.random.default_rng(0)).question.isascii()


def test_names_are_unambiguous() -> None:
    for language in LANGUAGES:
        names = [name for kind in kinds() for name in (kind.zh if language == "zh" else kind.en)]
        assert len(set(names)) == len(names)
    assert len(COLOURS) == 10


def test_what_is_asked_as_absent_could_not_be_meant() -> None:
    for seed in range(200):
        scene = scene_of(seed, 5, mix=SceneMix(anything=True))
        exchange = exchange_of("exists", scene, "en", np.random.default_rng(seed))
        assert exchange is not None
        if exchange.truth == "no":
            named = exchange.answer.removeprefix("No, there is no ").rstrip(".")
            shown = {item.kind.key for item in scene.items}
            assert named not in shown
            assert not any(overlap(by_key()[named], item.kind) for item in scene.items if named in by_key())


def test_an_overlap_is_seen_from_both_sides() -> None:
    bird, duck, cat = (by_key()[key] for key in ("bird", "duck", "cat"))
    assert overlap(bird, duck) and overlap(duck, bird) and not overlap(duck, cat)


def test_articles() -> None:
    said = {word: article(word) for word in ("hourglass", "unicorn", "ufo", "apple", "scissors", "cat", "x-ray")}
    assert said == {
        "hourglass": "an", "unicorn": "a", "ufo": "a", "apple": "an", "scissors": "some", "cat": "a", "x-ray": "an"
    }  # fmt: skip


@pytest.mark.parametrize(
    "key, name, phrase",
    [
        ("pair of gloves", "gloves", "some gloves"),
        ("pair of gloves", "glove", "a glove"),
        ("scissors", "scissors", "some scissors"),
        ("bowl of rice", "rice", "some rice"),
        ("birthday cake", "birthday cake", "a birthday cake"),
        ("usb stick", "usb stick", "a usb stick"),
        ("umbrella", "umbrella", "an umbrella"),
    ],
)
def test_articles_follow_number_and_sound(key: str, name: str, phrase: str) -> None:
    kind = next(kind for kind in kinds() if name in kind.en)
    assert answers.some(name, kind, None, "en") == phrase
    assert answers.some(name, kind, COLOURS[0], "en") == f"{'some' if phrase[:4] == 'some' else 'a'} red {name}"


def test_a_singular_question_never_has_a_plural_name() -> None:
    gloves = next(kind for kind in kinds() if "gloves" in kind.en)
    asked = {name(np.random.default_rng(seed), gloves, "en") for seed in range(60)}
    assert asked == {"pair of gloves", "glove"}
    assert "gloves" in {name(np.random.default_rng(seed), gloves, "en", False) for seed in range(60)}


def test_animals_have_a_measure_word_of_their_own() -> None:
    assert [kind.key for kind in kinds() if kind.category == "animal" and kind.measure == "个"] == []
