"""Zone initialization: embeddings encode their zone, and everything else is unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from visualglm.errors import UsageError
from visualglm.hub.local_folder import packed_model
from visualglm.network.configuration import QFormerConfig, VisualGLMConfig
from visualglm.network.glm import GLMAttention, GLMBlock
from visualglm.network.qformer import QFormerLayer
from visualglm.pretraining.config import ModelSizes
from visualglm_lab.training.attention_init import KIND_HEAD, compare_words, tell_zones
from visualglm_lab.training.config import SceneStage, SceneTrainingConfig
from visualglm_lab.training.position_init import (
    carry_zones,
    least_varying_directions,
    null_space,
    pass_zones,
    project_zones,
    zone_directions,
)
from visualglm_lab.training.scene_batches import SceneBatch
from visualglm_lab.training.trainer import SceneTrainer

IMAGES, ZONES, SIZE = 240, 9, 192
WHERE = torch.linalg.qr(torch.randn(SIZE, ZONES, generator=torch.Generator().manual_seed(5))).Q.T
SIZES = ModelSizes(
    image_size=96, vision_layers=1, vision_hidden=64, qformer_layers=1, qformer_hidden=128, layers=1, hidden=SIZE
)


def in_zones(whisper: float, seed: int = 0) -> Tensor:
    """Embeddings [images, zones, size] with large content and a small (`whisper`) zone signal."""
    torch.manual_seed(seed)
    things = torch.randn(IMAGES, ZONES, SIZE - 40) @ torch.eye(SIZE)[: SIZE - 40]  # forty directions are silent
    return things + whisper * WHERE


def told_apart(vectors: Tensor) -> float:
    """Accuracy of a linear zone probe, fitted to three quarters of the images, on the rest."""
    train, rest = vectors[: IMAGES * 3 // 4], vectors[IMAGES * 3 // 4 :]
    mean, reading = zone_directions(train)
    centres = ((train - mean) @ reading).mean(dim=0)
    nearest = torch.cdist((rest - mean) @ reading, centres).argmin(dim=-1)
    return float((nearest == torch.arange(ZONES)).float().mean())


@torch.no_grad()
def test_an_mlp_that_drowned_the_zones_passes_them_on() -> None:
    torch.manual_seed(1)
    layer = QFormerLayer(QFormerConfig(hidden_size=SIZE, num_attention_heads=3), False)
    up = layer.mlp.dense_h_to_4h.weight
    up -= up @ WHERE.T @ WHERE  # it reads the things alone
    up[-40:] *= 1e-3  # and nobody uses these units
    hidden = in_zones(6.0)
    before = layer.mlp(hidden)
    pass_zones(layer, hidden, before)
    after = layer.mlp(hidden)
    assert told_apart(before) < 0.2
    assert told_apart(after) > 0.95
    assert F.cosine_similarity(before, after, dim=-1).mean() > 0.9


@torch.no_grad()
def test_a_projection_hands_the_zones_on_where_nobody_looks() -> None:
    torch.manual_seed(2)
    vectors, reader = in_zones(0.0), torch.randn(64, SIZE)
    arriving = least_varying_directions(vectors.flatten(0, 1), ZONES - 1)
    zones = torch.randn(ZONES, ZONES - 1) @ arriving.T
    projection = torch.nn.Linear(SIZE, SIZE)
    written = projection(vectors)
    project_zones(projection, arriving, written.flatten(0, 1), null_space(reader))
    assert told_apart(projection(vectors + zones)) > 0.95
    seen, other = projection(vectors) @ reader.T, projection(vectors + zones) @ reader.T
    assert torch.allclose(seen, other, atol=1e-3)
    assert torch.allclose(projection(vectors), written, atol=1e-3)


@torch.no_grad()
def test_a_head_carries_the_zone_and_what_it_carried_before() -> None:
    torch.manual_seed(3)
    made = GLMAttention(VisualGLMConfig(hidden_size=SIZE, num_attention_heads=3, num_layers=1), 0)
    vectors = F.layer_norm(in_zones(1.0), (SIZE,))
    before, others = carried(made, 1, vectors), [carried(made, head, vectors) for head in (0, 2)]
    carry_zones(made, 1, vectors)
    after = carried(made, 1, vectors)
    zones = (vectors - vectors.mean(dim=(0, 1))) @ zone_directions(vectors)[1]
    added = (after - after.mean(dim=(0, 1))) - (before - before.mean(dim=(0, 1)))
    assert torch.corrcoef(torch.stack([added.norm(dim=-1).flatten(), zones.norm(dim=-1).flatten()]))[0, 1] > 0.9
    assert told_apart(added) > 0.95
    for head, was in zip((0, 2), others, strict=True):
        assert torch.equal(carried(made, head, vectors), was)


def carried(attention: GLMAttention, head: int, vectors: Tensor) -> Tensor:
    """Return the output of a head that attends to each of the vectors alone."""
    dim = attention.head_dim
    rows = slice((3 * head + 2) * dim, (3 * head + 3) * dim)
    values = F.linear(vectors, attention.query_key_value.weight[rows], attention.query_key_value.bias[rows])
    return F.linear(values, attention.dense.weight[:, head * dim : (head + 1) * dim])


def bound(folder: Path, **settings: int) -> tuple[SceneTrainer, SceneStage]:
    stage = SceneStage("answers", "answers", steps=3, images=20, rows=2, **settings)
    return SceneTrainer(recipe(folder, stage, SIZES), lambda line: None), stage


def recipe(folder: Path, stage: SceneStage, sizes: ModelSizes) -> SceneTrainingConfig:
    vocabulary = str(packed_model() / "ice_text.model")
    return SceneTrainingConfig(
        str(folder), vocabulary, bfloat16=False, threads=1, workers=0, model=sizes, stages=(stage,)
    )


@torch.no_grad()
def test_vectors_of_a_whole_model_say_where_they_stand_and_comparing_goes_on(tmp_path: Path) -> None:
    run, stage = bound(tmp_path)
    batches = [b for b, _ in zip(run.batches(stage, 0), range(12), strict=False) if isinstance(b, SceneBatch)]
    compare_words(run.objective, batches)
    images = [batch.pixel_values for batch in batches if batch.pixel_values is not None]
    block = run.model.transformer.layers[0]
    assert isinstance(block, GLMBlock)
    keys = block.attention.query_key_value.weight[:192].clone()
    before = torch.cat([run.model.encode_images(pixels) for pixels in images])[:, :ZONES]
    tell_zones(run.model, images)
    after = torch.cat([run.model.encode_images(pixels) for pixels in images])[:, :ZONES]
    assert told_apart(after) > 0.95
    assert F.cosine_similarity(before, after, dim=-1).mean() > 0.7
    dim = block.attention.head_dim
    assert torch.equal(block.attention.query_key_value.weight[: 2 * dim], keys[: 2 * dim])
    assert told_apart(carried(block.attention, KIND_HEAD, block.input_layernorm(after))) > 0.95


def test_a_stage_binds_once_and_only_when_it_is_asked(tmp_path: Path) -> None:
    asked, _ = bound(tmp_path / "asked", zones_after=1)
    plain, _ = bound(tmp_path / "plain")
    for run in (asked, plain):
        run.run()
    projections = [run.model.image_encoder.glm_proj.weight for run in (asked, plain)]
    assert not torch.equal(*projections)  # the stage itself leaves the encoder alone


def test_two_heads_leave_no_room(tmp_path: Path) -> None:
    stage = SceneStage("answers", "answers", steps=3, zones_after=1)
    with pytest.raises(UsageError, match="at least 3 heads"):
        SceneTrainer(recipe(tmp_path, stage, replace(SIZES, hidden=128)), lambda line: None)
