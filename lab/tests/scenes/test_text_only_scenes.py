"""Dialogues without a picture: what is told is what is asked about, and what is known is true."""

from __future__ import annotations

import numpy as np

from visualglm.evaluation.scenes.kinds import LANGUAGES
from visualglm_lab.scenes.text_only_scenes import known, tellable, told, told_scene


def test_a_told_scene_answers_from_its_words() -> None:
    rng = np.random.default_rng(0)
    for seed in range(40):
        scene = told_scene(seed, 4, 1)
        for task in tellable():
            exchange = told(task, scene, "en", rng)
            if exchange is not None:
                first = exchange.history[0][0] if exchange.history else exchange.question
                assert not exchange.with_image and first.startswith("There is")


def test_what_is_known_is_true() -> None:
    for seed in range(60):
        for language in LANGUAGES:
            exchange = known(language, np.random.default_rng(seed))
            assert exchange.truth in exchange.answer
