"""The model cards show the results of the packed weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from visualglm.evaluation.scenes.kinds import Language
from visualglm.hub.local_folder import packed_model
from visualglm_lab.evaluation.model_card import CARDS, refresh, refresh_photos

RECIPES = Path(__file__).parents[2] / "recipes" / "mini"


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECIPES / "figures.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("language", list(CARDS))
def test_a_card_quotes_the_figures(figures: dict[str, Any], language: Language) -> None:
    card = (packed_model() / CARDS[language]).read_text(encoding="utf-8")
    assert refresh(card, figures, language) == card
    assert figures["weights_sha256"] in card
    photos = json.loads((RECIPES / "photo_figures.json").read_text(encoding="utf-8"))
    assert photos["weights_sha256"] == figures["weights_sha256"]
    assert refresh_photos(card, photos, language) == card


def test_the_figures_are_of_the_weights_that_ship(figures: dict[str, Any]) -> None:
    weights = (packed_model() / "model.safetensors").read_bytes()
    assert figures["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert figures["split"] == "test"
    assert {"drawn", "cut-outs", "names", "follow-up", "zh = en"} <= set(figures)
