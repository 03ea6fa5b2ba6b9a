"""Fit the layers that tell the language model what the stem sees, with everything else frozen.

`concept_head` learns the kinds of scenes from drawn scenes of one large object, the album's training images, and
sampled vectors and crops of free photographs with the classifier's opinion (`class_prototypes.py`); a vector of a kind
that scenes do not have is "anything else". Some examples are mixed in pairs (Zhang et al. 2018, arXiv 1710.09412), so
that the head is unsure between things. What a concept and a class of the stem add is set by hand: the word embeddings
of their names; and so is what tells how certain they are. Run:
`python -m visualglm_lab.training.fit_names runs/mini-stem --album runs/pictures`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from visualglm.evaluation.scenes import answers
from visualglm.evaluation.scenes.concepts import kinds
from visualglm.evaluation.scenes.kinds import LANGUAGES, Kind
from visualglm.evaluation.scenes.render import render_scene
from visualglm.evaluation.scenes.scene import SceneMix, scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.stem import ConvolutionalStem
from visualglm.network.vision import CertaintyEmbed, ConceptHead, StemEmbed
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

from ..evaluation.album_images import AlbumImages
from ..scenes.cutouts import Album
from .class_prototypes import PrototypeSampler
from .imagenet_classes import class_kinds, named_kinds
from .opinion_answers import AGREED, LIKELY, SURE
from .stem_features import pixel_values, pooled_by

MIX = SceneMix(pasted=0.94, letters=0.03, large=1.0, relit=0.5)
FIRST_SEED = 40_000_000
"""Scenes of this step are not those of the stages, which begin at 0."""
DRAWN_BATCH, BATCH, VECTORS, REPEATED = 64, 256, 25_600, 8
"""Scenes and examples of a batch; sampled vectors; how often each crop of a photograph is repeated among them."""
RATE, DROPOUT, MIXED, VECTOR_WEIGHT = 3e-3, 0.3, 0.4, 0.7
"""Peak learning rate; dropped input features; fraction of mixed pairs; loss weight of sampled vectors."""
LENGTH, EARLIER = 60.0, 0.4
"""Length of what a certain concept or class adds, twice that of other image embeddings, so that it stands out from the
query's own part; weight of the tokens of a name before its last one."""
STEEPNESS, CERTAINTY_LENGTH = 100.0, 40.0
"""Inverse width of a step, as a fraction of `LENGTH`; length of what it adds."""
CERTAINTY_BATCHES, NEAR = 20, 0.03
"""Batches of vectors that are sampled for the steps, and how near to a step's probability they are taken."""


@dataclass
class Examples:
    """Pooled features [N, 1280] and the number of the right kind in `kinds()` [N]."""

    pooled: Tensor
    kinds: Tensor

    def __add__(self, other: Examples) -> Examples:
        return Examples(torch.cat([self.pooled, other.pooled]), torch.cat([self.kinds, other.kinds]))


class DrawnImages(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of scenes of one large object: pixel values and the number of its kind."""

    def __init__(self, album: str | Path, side: int, batches: int) -> None:
        self.album, self.side, self.batches = Album(album), side, batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for index in range(first, self.batches, step):
            drawn = seeds(Split.TRAIN, FIRST_SEED + index * DRAWN_BATCH)
            scenes = [scene_of(next(drawn), 1, 1, False, self.album, MIX) for _ in range(DRAWN_BATCH)]
            shown = [scene for scene in scenes if scene.items]
            labels = torch.tensor([_numbers()[scene.items[0].kind] for scene in shown])
            yield pixel_values([render_scene(scene) for scene in shown], self.side), labels


@lru_cache(maxsize=1)
def _numbers() -> dict[Kind, int]:
    return {kind: index for index, kind in enumerate(kinds())}


def drawn_examples(album: str | Path, stem: ConvolutionalStem, side: int, batches: int) -> Examples:
    """Draw scenes and compute their pooled features."""
    loader = DataLoader(DrawnImages(album, side, batches), batch_size=None, num_workers=1)
    with torch.no_grad():
        parts = [Examples(stem(pixels)[1], labels) for pixels, labels in loader]
    return Examples(torch.cat([part.pooled for part in parts]), torch.cat([part.kinds for part in parts]))


def album_examples(folder: str | Path, stem: ConvolutionalStem, side: int, split: str) -> Examples:
    """Compute the pooled features of the album's images of a split, on white."""
    album = AlbumImages(folder)
    rows = album.never_trained(split)
    pooled = pooled_by(stem, list(album.images(rows)), side)
    return Examples(pooled, torch.tensor([_numbers()[row.kinds[0]] for row in rows]))


class StandardizedHead(nn.Module):
    """The first two layers of `ConceptHead` on standardized features, where training is fast."""

    def __init__(self, pooled: Tensor, concepts: int, hidden: int) -> None:
        super().__init__()
        self.mean, self.scale = pooled.mean(0), 1 / (pooled.std(0) + 1e-2)
        self.down, self.classifier = nn.Linear(pooled.shape[1], hidden), nn.Linear(hidden, concepts + 1)

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, 1280] -> logits [B, concepts + 1]."""
        hidden = self.down(F.dropout((pooled - self.mean) * self.scale, DROPOUT, self.training))
        logits: Tensor = self.classifier(F.dropout(hidden, DROPOUT / 3, self.training))
        return logits

    @torch.no_grad()
    def fold_into(self, head: ConceptHead) -> None:
        """Write the layers, for features as they are."""
        head.down.weight.copy_(self.down.weight * self.scale)
        head.down.bias.copy_(self.down.bias - head.down.weight @ self.mean)
        head.classifier.load_state_dict(self.classifier.state_dict())


def fit(examples: Examples, sampler: PrototypeSampler, hidden: int, steps: int) -> StandardizedHead:
    """Train the head on examples and sampled vectors."""
    torch.manual_seed(0)
    rng, count = np.random.default_rng(0), len(kinds()) + 1
    head = StandardizedHead(examples.pooled, len(kinds()), hidden)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.05)
    vectors = torch.cat([sampler.sample(BATCH, rng) for _ in range(VECTORS // BATCH)])
    if sampler.photographs is not None:
        vectors = torch.cat([vectors, *[sampler.photographs] * REPEATED])
    believed = opinions(sampler, vectors)
    frequency = examples.kinds.bincount(minlength=count)[examples.kinds]
    weights = frequency.rsqrt() / frequency.rsqrt().mean()
    for _ in range(steps):
        chosen = torch.from_numpy(rng.integers(len(examples.pooled), size=BATCH))
        shown, target = mixed(examples.pooled[chosen], F.one_hot(examples.kinds[chosen], count), rng)
        drawn = torch.from_numpy(rng.integers(len(vectors), size=BATCH))
        logits = head(torch.cat([shown, vectors[drawn]]))
        targets = torch.cat([target, believed[drawn]])
        losses = -(targets * logits.log_softmax(-1)).sum(-1)
        loss = (losses * torch.cat([weights[chosen], torch.full((BATCH,), VECTOR_WEIGHT)])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def opinions(sampler: PrototypeSampler, vectors: Tensor) -> Tensor:
    """Return the classifier's probabilities of `kinds()`, and of anything else: [B, 1280] -> [B, kinds + 1]."""
    found = torch.zeros(len(vectors), len(kinds()) + 1)
    numbers = torch.tensor([_numbers().get(kind, -1) for kind in named_kinds()])
    found[:, numbers[numbers >= 0]] = sampler.opinion(vectors)[:, numbers >= 0]
    found[:, -1] = (1 - found.sum(-1)).clamp(min=0)
    return found


def mixed(pooled: Tensor, targets: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """Mix a fraction of the examples [B, 1280], [B, kinds] with others of the batch, the features and the targets."""
    own = torch.from_numpy(rng.beta(0.4, 0.4, size=(len(pooled), 1))).float()
    own = torch.maximum(own, 1 - own)
    own[torch.from_numpy(rng.random(len(pooled)) >= MIXED)] = 1
    other = torch.from_numpy(rng.permutation(len(pooled)))
    return own * pooled + (1 - own) * pooled[other], own * targets + (1 - own) * targets[other]


def names_as_words(
    model: VisualGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, named: Sequence[Kind | None]
) -> Tensor:
    """Return the words of each name in both languages, the last tokens most: [kinds, hidden]; zeros for None."""
    embeddings = F.normalize(model.get_parameter("transformer.word_embeddings.weight").detach().float(), dim=-1)
    words = torch.zeros(len(named), embeddings.shape[1])
    for row, kind in enumerate(named):
        for language in LANGUAGES if kind else ():
            ids = tokenizer.encode_plain(answers.noun(cast(Kind, kind), language))
            words[row] += embeddings[ids[-1]] + EARLIER * embeddings[ids[:-1]].sum(0)
    return LENGTH * F.normalize(words, dim=-1)


@torch.no_grad()
def tell_certainty(embed: CertaintyEmbed, class_proj: nn.Linear, sampler: PrototypeSampler) -> None:
    """Set the steps to the probabilities at which an answer changes, and a direction for each, orthogonal to others.

    Names have words in common, so a length is no probability; sampled vectors tell the length at each of them.
    """
    vectors = torch.cat([sampler.sample(BATCH, np.random.default_rng(seed)) for seed in range(CERTAINTY_BATCHES)])
    lengths = class_proj(sampler.probabilities(vectors)).norm(dim=-1)
    chances = sampler.opinion(vectors).max(-1).values
    at = [lengths[(chances - step).abs() < NEAR].median() for step in (LIKELY, AGREED, SURE)]
    embed.steps.weight.fill_(STEEPNESS / LENGTH)
    embed.steps.bias.copy_(-STEEPNESS / LENGTH * torch.stack(at))
    torch.manual_seed(0)
    nn.init.orthogonal_(embed.proj.weight, gain=CERTAINTY_LENGTH)


def main() -> None:
    """Fit the layers of a model with a stem, and write its weights back."""
    parser = argparse.ArgumentParser(prog="python -m visualglm_lab.training.fit_names", description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a model with a stem; its weights are replaced")
    parser.add_argument("--album", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=300, help=f"drawn batches of {DRAWN_BATCH} scenes")
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()
    began = time.monotonic()
    model = VisualGLMForConditionalGeneration.from_pretrained(str(options.model), dtype=torch.float32)
    tokenizer = ChatGLMTokenizer.from_pretrained(str(options.model))
    encoder, side = model.image_encoder, model.config.vision.image_size
    stem = cast(StemEmbed, encoder.vit.mixins["patch_embedding"]).stem
    examples = drawn_examples(options.album, stem, side, options.batches)
    examples += album_examples(options.album, stem, side, "train")
    sampler = PrototypeSampler.load(options.album)
    head = fit(examples, sampler, model.config.hidden_size, options.steps)
    validation = album_examples(options.album, stem, side, "validation")
    with torch.no_grad():
        right = (head(validation.pooled)[:, :-1].argmax(-1) == validation.kinds).float().mean()
        head.fold_into(encoder.concept_head)
        encoder.concept_head.proj.weight.copy_(names_as_words(model, tokenizer, [*kinds(), None]).T)
        encoder.class_proj.weight.copy_(names_as_words(model, tokenizer, class_kinds()).T)
        tell_certainty(encoder.certainty, encoder.class_proj, sampler)
    with tempfile.TemporaryDirectory(dir=options.model) as new:
        model.half().save_pretrained(new)
        shutil.move(Path(new) / "model.safetensors", options.model / "model.safetensors")
    told = {"examples": len(examples.pooled), "validation": round(float(right), 3)}
    print(json.dumps({**told, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
