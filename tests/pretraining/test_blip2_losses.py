"""BLIP-2 losses: the masks hide what they should, and the losses decrease."""

from __future__ import annotations

import pytest
import torch

from visualglm.network.configuration import QFormerConfig
from visualglm.network.qformer import QFormer
from visualglm.pretraining.blip2_losses import TextBranch

CAPTIONS = torch.tensor([[5, 6, 7, 8, 3], [5, 9, 10, 11, 12], [5, 9, 3, 3, 3]])


@pytest.fixture
def parts() -> tuple[QFormer, TextBranch, torch.Tensor]:
    torch.manual_seed(0)
    config = QFormerConfig(
        num_layers=2, hidden_size=64, num_attention_heads=2, cross_attn_hidden_size=32, num_queries=4,
        cross_attention_layers=[0, 1], initializer_range=0.1,
    )  # fmt: skip
    qformer = QFormer(config)
    qformer.set_attn_implementation("eager")
    return qformer, TextBranch(config, 20), torch.randn(3, 10, 32)


def test_apart_is_what_the_plain_qformer_computes(parts: tuple[QFormer, TextBranch, torch.Tensor]) -> None:
    qformer, branch, tokens = parts
    queries, _ = branch.run(qformer, tokens, CAPTIONS, "apart")
    torch.testing.assert_close(queries, qformer(tokens)[0], atol=1e-5, rtol=1e-5)


def test_text_apart_knows_nothing_of_the_image_and_captions_only_the_past(
    parts: tuple[QFormer, TextBranch, torch.Tensor],
) -> None:
    qformer, branch, tokens = parts
    one, other = (branch.run(qformer, t, CAPTIONS, "apart")[1] for t in (tokens, tokens.flip(0)))
    torch.testing.assert_close(one, other)
    changed = CAPTIONS.clone()
    changed[:, 3] = 15
    one, other = (branch.run(qformer, tokens, c, "caption")[1] for c in (CAPTIONS, changed))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])
    shown, hidden = (branch.run(qformer, t, CAPTIONS, "caption")[1] for t in (tokens, tokens.flip(0)))
    assert not torch.allclose(shown[0], hidden[0])


def test_the_losses_fall(parts: tuple[QFormer, TextBranch, torch.Tensor]) -> None:
    qformer, branch, tokens = parts
    optimizer = torch.optim.Adam([*qformer.parameters(), *branch.parameters()], lr=3e-3)
    seen = []
    for _ in range(60):
        loss, report = branch.losses(qformer, tokens, CAPTIONS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(report)
    assert all(seen[-1][name] < 0.5 * seen[0][name] for name in ("contrast", "captioning"))
    assert seen[-1]["retrieved"] == 1.0
