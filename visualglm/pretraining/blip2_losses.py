"""BLIP-2's first stage: contrastive, matching and captioning losses.

A text branch (with its own embeddings, norms and MLPs) shares the Q-Former's self-attention and is discarded after
training. Three attention masks are used. Contrast: queries and text do not see each other, and the query that fits the
caption best counts. Matching: both see everything. Captioning: text sees all queries and the text to its left. Source:
BLIP-2 (Li et al. 2023), section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..network.attention import attend, split_heads
from ..network.configuration import QFormerConfig
from ..network.qformer import QFormer, QFormerLayer
from ..network.vision import FeedForward

PAD = 3
CONTRAST_CHANNELS = 64  # of the space in which images and captions are compared


class TextLayer(nn.Module):
    """The text branch's own modules in one layer."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.input_layernorm = nn.LayerNorm(size, eps=config.layernorm_epsilon)
        self.post_attention_layernorm = nn.LayerNorm(size, eps=config.layernorm_epsilon)
        self.mlp = FeedForward(size, config.inner_hidden_size or 4 * size)


class TextBranch(nn.Module):
    """Text branch of the Q-Former, used in training only, and the three losses."""

    def __init__(self, config: QFormerConfig, vocab_size: int, longest: int = 96) -> None:
        super().__init__()
        size = config.hidden_size
        self.words = nn.Embedding(vocab_size, size)
        self.positions = nn.Embedding(longest, size)
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=config.initializer_range)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(size, eps=config.layernorm_epsilon)
        self.image_projection, self.text_projection = (
            nn.Linear(size, CONTRAST_CHANNELS),
            nn.Linear(size, CONTRAST_CHANNELS),
        )
        self.matching = nn.Linear(size, 2)
        self.temperature = nn.Parameter(torch.tensor([0.07]))  # one element: sharding does not support scalars

    def losses(self, qformer: QFormer, tokens: Tensor, captions: Tensor) -> tuple[Tensor, dict[str, float]]:
        """ViT tokens [P, N, cross], captions [P, T] padded with 3 -> the sum of the three losses, and a report."""
        captions = captions[:, : self.positions.num_embeddings]
        contrast, similarity = self._contrast(qformer, tokens, captions)
        matching = self._matching(qformer, tokens, captions, similarity)
        captioning = self._captioning(qformer, tokens, captions)
        report = {"contrast": float(contrast.detach()), "matching": float(matching.detach())}
        hits = (similarity.argmax(dim=1) == torch.arange(len(captions), device=captions.device)).float().mean()
        return contrast + matching + captioning, {
            **report,
            "captioning": float(captioning.detach()),
            "retrieved": float(hits),
        }

    def _contrast(self, qformer: QFormer, tokens: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Contrast images with captions of the batch; also return their similarity [P, P], that of the best query."""
        queries, text = self.run(qformer, tokens, captions, "apart")
        images = F.normalize(self.image_projection(queries).float(), dim=-1)
        words = F.normalize(self.text_projection(text[:, 0]).float(), dim=-1)
        similarity = torch.einsum("pqc,tc->ptq", images, words).amax(dim=-1) / self.temperature.clamp(min=0.01)
        same = (captions[:, None] == captions[None]).all(dim=-1).float()  # equal captions both count as right
        target = same / same.sum(dim=1, keepdim=True)
        loss = F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)
        return loss / 2, similarity.detach().masked_fill(
            same.bool() & ~torch.eye(len(same), device=same.device).bool(), -1e4
        )

    def _matching(self, qformer: QFormer, tokens: Tensor, captions: Tensor, similarity: Tensor) -> Tensor:
        """Classify whether a caption fits an image; wrong pairs are sampled by similarity (hard negatives)."""
        count = len(captions)
        weights = similarity.softmax(dim=1).masked_fill(torch.eye(count, device=similarity.device).bool(), 0) + 1e-6
        weights.fill_diagonal_(0)
        wrong_text, wrong_image = torch.multinomial(weights, 1)[:, 0], torch.multinomial(weights.T, 1)[:, 0]
        queries, _ = self.run(
            qformer,
            torch.cat([tokens, tokens, tokens[wrong_image]]),
            torch.cat([captions, captions[wrong_text], captions]),
            "together",
        )
        truth = torch.cat([torch.ones(count), torch.zeros(2 * count)]).long().to(tokens.device)
        return F.cross_entropy(self.matching(queries).mean(dim=1).float(), truth)

    def _captioning(self, qformer: QFormer, tokens: Tensor, captions: Tensor) -> Tensor:
        """Predict the caption token by token; the text sees the image only through the queries."""
        _, text = self.run(qformer, tokens, captions, "caption")
        logits = F.linear(text[:, :-1], self.words.weight).float()
        targets = captions[:, 1:].masked_fill(captions[:, 1:] == PAD, -100)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def run(self, qformer: QFormer, tokens: Tensor, captions: Tensor, mode: str) -> tuple[Tensor, Tensor]:
        """Run all layers under one of the three masks; returns queries [P, Q, hidden] and text [P, T, hidden]."""
        queries = qformer.expand_queries(tokens)
        text = self.words(captions) + self.positions.weight[: captions.shape[1]]
        mask = _mask(queries.shape[1], captions, mode, text.dtype)
        for layer, branch in zip(qformer.transformer.layers, self.layers, strict=True):
            queries, text = _run_layer(layer, branch, queries, text, tokens, mask)  # type: ignore[arg-type]
        return qformer.transformer.final_layernorm(queries), self.norm(text)


def _run_layer(
    layer: QFormerLayer, branch: TextLayer, queries: Tensor, text: Tensor, tokens: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Run one layer: shared self-attention; cross-attention to the image for the queries only."""
    queries, text = layer.input_layernorm(queries), branch.input_layernorm(text)
    both = torch.cat([queries, text], dim=1)
    attention = layer.attention
    query, key, value = (split_heads(x, attention.num_heads) for x in attention.query_key_value(both).chunk(3, -1))
    seen, _ = attend(attention, query, key, value, mask.to(query.dtype))
    to_queries, to_text = attention.dense(seen).split([queries.shape[1], text.shape[1]], dim=1)
    queries = layer.post_attention_layernorm(queries + to_queries)
    text = branch.post_attention_layernorm(text + to_text)
    if layer.has_cross_attention:
        crossed, _ = layer.cross_attention(queries, tokens)
        queries = layer.post_cross_attention_layernorm(queries + crossed)
    return queries + layer.mlp(queries), text + branch.mlp(text)


def _mask(queries: int, captions: Tensor, mode: str, dtype: torch.dtype) -> Tensor:
    """Build an additive mask [P, 1, Q + T, Q + T]: 0 where visible, -10000 elsewhere; padding is never visible."""
    length = captions.shape[1]
    seen = torch.zeros(len(captions), queries + length, queries + length, dtype=torch.bool, device=captions.device)
    seen[:, :queries, :queries] = True
    words = (captions != PAD)[:, None].expand(-1, length, -1)
    seen[:, queries:, queries:] = words.tril() if mode == "caption" else words
    if mode != "apart":
        seen[:, queries:, :queries] = True
    if mode == "together":
        seen[:, :queries, queries:] = (captions != PAD)[:, None]
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -1e4)[:, None]
