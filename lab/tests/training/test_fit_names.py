"""The layers behind the stem: how they are fitted, and what is written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from visualglm.conversation import VisualGLM
from visualglm.evaluation.scenes.concepts import by_key, kinds
from visualglm.hub.local_folder import packed_model
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.vision import ConceptHead
from visualglm_lab.training import fit_names
from visualglm_lab.training.class_prototypes import PrototypeSampler, write_features
from visualglm_lab.training.fit_names import Examples, StandardizedHead, fit, mixed, names_as_words, opinions
from visualglm_lab.training.imagenet_classes import class_kinds
from visualglm_lab.training.stem_weights import COMPANIONS

Features = dict[str, torch.Tensor]


def examples() -> Examples:
    """Features around one mean per kind."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(6, 1280, generator=generator)
    labels = torch.arange(6).repeat(40)
    return Examples(means[labels] + 0.3 * torch.rand(len(labels), 1280, generator=generator), labels)


def test_the_head_names_what_was_shown(classifier: Features) -> None:
    given = examples()
    head = fit(given, PrototypeSampler(**classifier), 64, steps=40)
    assert (head(given.pooled).argmax(-1) == given.kinds).float().mean() > 0.9


def test_the_folded_head_reads_features_as_they_are() -> None:
    given = examples()
    standardized, head = StandardizedHead(given.pooled, 6, 64).eval(), ConceptHead(6, 64)
    standardized.fold_into(head)
    with torch.no_grad():
        found = head.classifier(head.down(given.pooled))
        torch.testing.assert_close(found, standardized(given.pooled), atol=1e-4, rtol=1e-4)


def test_a_class_without_a_kind_of_scenes_is_anything_else(classifier: Features) -> None:
    sampler = PrototypeSampler(**classifier)
    found = opinions(sampler, sampler.sample(20, np.random.default_rng(0)))
    assert found.shape == (20, len(kinds()) + 1)
    torch.testing.assert_close(found.sum(-1), torch.ones(20))
    assert (found[:, -1] > 0.1).any()


def test_mixed_pairs_mix_their_targets_alike() -> None:
    features, targets = mixed(torch.eye(64, 1280), torch.eye(64), np.random.default_rng(0))
    assert torch.equal(features[:, :64], targets)
    torch.testing.assert_close(targets.sum(-1), torch.ones(64))
    assert 0.2 < (targets.max(-1).values < 0.999).float().mean() < 0.5
    assert (targets.argmax(-1) == torch.arange(64)).all()  # the own part is the larger one


def test_a_name_is_its_words_and_nothing_is_nothing(model: VisualGLM) -> None:
    said = names_as_words(model.model, model.processor.tokenizer, [by_key()["banana"], None])
    assert said.shape == (2, model.model.config.hidden_size)
    assert abs(float(said[0].norm()) - fit_names.LENGTH) < 1e-3 and not said[1].any()
    embeddings = torch.nn.functional.normalize(
        model.model.get_parameter("transformer.word_embeddings.weight").detach().float(), dim=-1
    )
    last = {model.processor.tokenizer.encode_plain(name)[-1] for name in ("banana", "香蕉")}
    assert set((said[0] @ embeddings.T).topk(2).indices.tolist()) == last


def test_the_command_changes_the_layers_behind_the_stem_alone(
    stem_start: Path,
    classifier: Features,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(stem_start, tmp_path / "start"))
    for name in COMPANIONS:
        shutil.copyfile(packed_model() / name, folder / name)
    write_features(album, **classifier)
    monkeypatch.setattr(sys, "argv", ["", str(folder), "--album", str(album), "--batches", "1", "--steps", "3"])
    fit_names.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["examples"] > 16
    before, after = (
        VisualGLMForConditionalGeneration.from_pretrained(str(path)).state_dict() for path in (stem_start, folder)
    )
    changed = {name for name, tensor in after.items() if not torch.equal(tensor.float(), before[name].half().float())}
    head = {f"image_encoder.{layer}" for layer in ("concept_head.down", "concept_head.classifier", "certainty.steps")}
    weights = {f"image_encoder.{part}.weight" for part in ("concept_head.proj", "class_proj", "certainty.proj")}
    assert changed == weights | {f"{layer}.{kind}" for layer in head for kind in ("weight", "bias")}
    added = after["image_encoder.class_proj.weight"].norm(dim=0)
    assert [bool(length) for length in added] == [kind is not None for kind in class_kinds()]
