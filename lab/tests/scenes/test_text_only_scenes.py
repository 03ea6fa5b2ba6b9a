"""Dialogues without an image: questions fit the description, and facts are true."""

from __future__ import annotations

import numpy as np

from visualglm.evaluation.scenes.kinds import LANGUAGES
from visualglm_lab.scenes.text_only_scenes import describable_tasks, described_question, described_scene, fact_question


def test_a_told_scene_answers_from_its_words() -> None:
    rng = np.random.default_rng(0)
    for seed in range(40):
        scene = described_scene(seed, 4, 1)
        for task in describable_tasks():
            exchange = described_question(task, scene, "en", rng)
            if exchange is not None:
                first = exchange.history[0][0] if exchange.history else exchange.question
                assert not exchange.with_image and first.startswith("There is")


def test_what_is_known_is_true() -> None:
    for seed in range(60):
        for language in LANGUAGES:
            exchange = fact_question(language, np.random.default_rng(seed))
            assert exchange.truth in exchange.answer
