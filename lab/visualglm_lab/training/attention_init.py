"""Set attention heads that find the object named in a question.

Finding the object that a question names is the hardest thing to learn from answers alone. Two heads of the first
block are set to compare words with images (`weight_init.compare`), and the zone of an embedding gets its own
channels (position_init.py). Training continues from there. All processes use the weights of process 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from visualglm.evaluation.scenes.kinds import ZONES
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig
from visualglm.network.glm import GLMBlock
from visualglm.network.qformer import QFormerLayer
from visualglm.training.distributed import broadcast_parameters

from .losses import SceneObjective
from .position_init import carry_zones, null_space, pass_zones, project_zones
from .scene_batches import SceneBatch
from .weight_init import compare

KIND_HEAD, COLOUR_HEAD = 0, 1
"""Indices of the heads of the first block that find the kind and the colour named in a question."""


@torch.no_grad()
def compare_words(objective: SceneObjective, batches: Iterable[SceneBatch]) -> None:
    """Set two heads of the first block to find the kind and the colour that a question names."""
    model = objective.model
    block, embed = _first_block(model), model.transformer.word_embeddings
    vectors, others = [], []
    for batch in batches:
        if batch.labels is None or batch.pixel_values is None:
            return
        slots = block.input_layernorm(model.encode_images(batch.pixel_values))
        zones, there = slots[:, : len(ZONES)], batch.labels.kinds[:, -len(ZONES) :] > 0
        vectors.append(zones[there])
        others += [zones[~there], slots[:, len(ZONES) :].flatten(0, 1)]
    for head, ids in ((KIND_HEAD, objective.kind_words), (COLOUR_HEAD, objective.colour_words)):
        words = block.input_layernorm(embed(torch.cat(ids)))
        compare(block.attention, head, words, torch.cat(vectors), torch.cat(others))
    broadcast_parameters(block.attention.query_key_value.parameters())


@torch.no_grad()
def tell_zones(model: VisualGLMForConditionalGeneration, images: list[Tensor]) -> None:
    """Make zone embeddings encode their zone, and the head that finds a kind carry it on.

    `images`: pixel values [P, 3, S, S], a few hundred in all.
    """
    encoder, block = model.image_encoder, _first_block(model)
    layer = cast(QFormerLayer, encoder.qformer.transformer.layers[-1])
    norm, projection = encoder.qformer.transformer.final_layernorm, encoder.glm_proj
    hidden, written = _record_mlp(layer.mlp, model, images)
    vectors = projection(norm(written))
    added = pass_zones(layer, hidden, written)
    arriving = norm.weight[:, None] * added / written.std(dim=-1).mean()
    project_zones(projection, arriving, vectors.flatten(0, 1), null_space(_read_directions(block)))
    told = torch.cat([model.encode_images(pixels)[:, : len(ZONES)] for pixels in images])
    carry_zones(block.attention, KIND_HEAD, block.input_layernorm(told))
    for module in (layer.mlp, projection, block.attention):
        broadcast_parameters(module.parameters())


def room_for_zones(config: VisualGLMConfig) -> bool:
    """Return True if the embeddings have enough channels for the zones beside those of the comparing heads."""
    return config.num_attention_heads > 2 and config.image_length >= len(ZONES)


def _first_block(model: VisualGLMForConditionalGeneration) -> GLMBlock:
    return cast(GLMBlock, model.transformer.layers[0])


def _record_mlp(
    mlp: nn.Module, model: VisualGLMForConditionalGeneration, images: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the input of an MLP for the zones and the output of its layer, each [P, Z, size]."""
    read: list[Tensor] = []
    written: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        zones = given[0][:, : len(ZONES)]
        read.append(zones)
        written.append(zones + answer[:, : len(ZONES)])

    hook = mlp.register_forward_hook(keep)
    for pixels in images:
        model.encode_images(pixels)
    hook.remove()
    return torch.cat(read), torch.cat(written)


def _read_directions(block: GLMBlock) -> Tensor:
    """Return the directions of image embeddings that the keys of the comparing heads read, [rows, hidden]."""
    weight = block.attention.query_key_value.weight.unflatten(0, (-1, 3, block.attention.head_dim))
    return weight[[KIND_HEAD, COLOUR_HEAD], 1].flatten(0, 1) * block.input_layernorm.weight
