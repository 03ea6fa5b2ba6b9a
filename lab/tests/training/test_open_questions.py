"""Questions that no scene answers: wordings kept for tests never train, every answer is honest."""

from __future__ import annotations

import numpy as np
import pytest

from visualglm.evaluation.scenes.kinds import LANGUAGES, Language
from visualglm_lab.training.open_questions import ANSWERS, WITHOUT_IMAGE, open_question, wordings


@pytest.mark.parametrize("group", ANSWERS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_wordings_for_tests_are_kept_out_of_training(group: str, language: Language) -> None:
    trained, kept = wordings(group, language, "train"), wordings(group, language, "test")
    assert len(trained) >= 8 and len(kept) >= 3 and not set(trained) & set(kept)


def test_every_group_is_asked_and_answered_in_the_language_of_the_question() -> None:
    rng = np.random.default_rng(0)
    asked = [open_question(language, rng) for language in LANGUAGES for _ in range(100)]
    assert {one.task for one in asked} == set(ANSWERS)
    assert all(one.answer == ANSWERS[one.task][one.language] for one in asked)
    assert all(one.question in wordings(one.task, one.language, "train") for one in asked)


def test_only_some_groups_are_asked_without_an_image() -> None:
    rng = np.random.default_rng(0)
    asked = [open_question("en", rng, with_image=False) for _ in range(50)]
    assert {one.task for one in asked} == set(WITHOUT_IMAGE) and not any(one.with_image for one in asked)
