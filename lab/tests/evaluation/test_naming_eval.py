"""Naming of single images: choice of images, right names, withheld answers, nearest neighbours."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from visualglm.conversation import VisualGLM
from visualglm.errors import UsageError
from visualglm.evaluation import batch_answering
from visualglm.evaluation.batch_answering import AskedQuestion, answer_all, encode
from visualglm.evaluation.scenes.concepts import by_key
from visualglm.evaluation.scenes.qa_pair import QAPair
from visualglm_lab.evaluation.album_images import AlbumImages, Shown
from visualglm_lab.evaluation.naming_eval import WHAT, Named, given_at, threshold
from visualglm_lab.evaluation.nearest_neighbour import best_index

HOUSE, TREE = by_key()["house"], by_key()["tree"]


def named(chance: float, right: bool) -> Named:
    row = Shown(0, (HOUSE,), "validation", "drawn", "drawing", "CC0", "x.png", True, 0)
    kind = HOUSE if right else TREE
    return Named(row, {"zh": "", "en": ""}, {"zh": chance, "en": chance}, {"zh": kind, "en": kind})


def test_a_split_has_one_image_of_near_duplicates(album: Path) -> None:
    gallery = AlbumImages(album)
    assert len(gallery.of("held_out")) == 8
    assert len(gallery.of("train")) == 16
    assert len(gallery.of("train", 5)) == 5


def test_a_image_lies_on_white_and_has_all_its_names(album: Path) -> None:
    gallery = AlbumImages(album)
    photo = next(row for row in gallery.of("photos") if row.kinds[0].key == "rectangle")
    assert photo.is_called(by_key()["diamond"])
    assert not photo.is_called(HOUSE)
    assert not photo.is_called(None)
    assert gallery.image(gallery.of("held_out")[0]).getpixel((0, 0)) == (255, 255, 255)
    assert [row.kinds[0].key for row in gallery.of("photos") if not row.shareable] == ["heart"]


def test_an_album_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"album\.npy"):
        AlbumImages(tmp_path)


def test_the_threshold_is_the_lowest_that_keeps_the_promise() -> None:
    said = [named(0.9, True), named(0.8, True), named(0.7, False), named(0.6, True), named(0.5, False)]
    assert threshold(said, "zh", 0.75) == 0.6
    assert threshold(said, "zh", 1.0) == 0.8
    assert given_at(said, "zh", 0.6)["share"] == 0.75
    assert given_at(said, "zh", 0.6)["coverage"] == 0.8
    assert given_at([named(0.1, True)], "en", threshold([named(0.2, False)], "en", 0.9))["n"] == 0


def test_encoding_is_what_the_model_does(model: VisualGLM, album: Path) -> None:
    gallery = AlbumImages(album)
    rows = gallery.of("validation")
    image = gallery.image(rows[3])
    seen = encode(model, gallery.images(rows))
    alone = model.conversation(image)._image_embeds[0]
    assert torch.allclose(seen.embeds[3:4], alone, atol=1e-4)
    asked = AskedQuestion(3, QAPair("name", "en", WHAT["en"], "", ""))
    said = answer_all(model, [asked], seen.embeds, with_probability=True)[0]
    assert said.answer == model.ask(image, WHAT["en"]).text
    assert 0 < said.probability <= 1


def test_sure_of_one_is_sure_of_many(model: VisualGLM, album: Path) -> None:
    gallery = AlbumImages(album)
    slots = encode(model, gallery.images(gallery.of("validation"))).embeds
    asked = [AskedQuestion(i, QAPair("name", "zh", WHAT["zh"], "", "")) for i in range(8)]
    together = [a.probability for a in answer_all(model, asked, slots, with_probability=True)]
    alone = [answer_all(model, [a], slots, with_probability=True)[0].probability for a in asked]
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_training_image_is_its_own_neighbour(model: VisualGLM, album: Path) -> None:
    gallery = AlbumImages(album)
    train, validation = gallery.of("train"), gallery.of("validation")
    seen = encode(model, gallery.images(train))
    found, tried = best_index(seen, train, encode(model, gallery.images(validation)), validation)
    assert found.nearest(seen) == [row.kinds[0] for row in train]
    assert len(set(found.nearest_mean(seen))) > 4
    assert tried[found.feature] == max(tried.values())
    assert np.isfinite(list(tried.values())).all()


def test_probabilities_are_computed_on_the_models_device() -> None:
    """On the meta device, which computes nothing."""

    class Network(torch.nn.Module):
        device, config = torch.device("meta"), SimpleNamespace(pad_token_id=3)

        def forward(self, ids: torch.Tensor, **inputs: torch.Tensor) -> SimpleNamespace:
            met.extend([ids.device.type, inputs["attention_mask"].device.type])
            raise KeyboardInterrupt

    met: list[str] = []
    row = SimpleNamespace(input_ids=[1, 2], ids=[4], image_embeds=torch.zeros(1, 2, 3))
    with pytest.raises(KeyboardInterrupt):
        batch_answering._answer_probabilities(SimpleNamespace(model=Network()), [row])  # type: ignore[arg-type, list-item]
    assert met == ["meta", "meta"]
