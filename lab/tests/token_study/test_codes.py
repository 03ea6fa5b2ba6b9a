"""The VQ tokenizer, codes as words of the vocabulary, and sampling of codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import QFormerConfig, VisionConfig, VisualGLMConfig
from visualglm_lab.token_study.drawing import sample_codes
from visualglm_lab.token_study.image_encoders import CodeEncoder
from visualglm_lab.token_study.vq_tokenizer import Codebook, VQTokenizer

TOKENS, CODES, FIRST = 16, 8, 40
PROMPT = [5, 6, 7, 61, 62]


@pytest.fixture
def pixels() -> Tensor:
    """Four flat images, [4, 3, 32, 32]."""
    colours = torch.tensor([[1.0, -1, 0], [0, 1, 1], [-1, -1, -1], [1, 1, 0]])
    return colours[:, :, None, None].expand(-1, -1, 32, 32).contiguous()


@pytest.fixture(scope="module")
def model() -> VisualGLMForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "hidden_size": 64, "num_attention_heads": 1}
    config = VisualGLMConfig(
        **sizes,
        vocab_size=64,
        inner_hidden_size=64,
        image_length=TOKENS,
        vision_config=VisionConfig(**sizes, inner_hidden_size=64, image_size=32, patch_size=8),
        qformer_config=QFormerConfig(**sizes, cross_attn_hidden_size=64, num_queries=TOKENS),
        mask_token_id=60,
        gmask_token_id=61,
        bos_token_id=62,
        eos_token_id=59,
        initializer_range=0.3,
    )
    return VisualGLMForConditionalGeneration(config).eval()


def trained(pixels: Tensor, steps: int = 120) -> tuple[VQTokenizer, list[float]]:
    torch.manual_seed(0)
    tokenizer = VQTokenizer(32, TOKENS, CODES, 16)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    errors = []
    for _ in range(steps):
        loss, report = tokenizer.losses(pixels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(report["error"])
    return tokenizer, errors


def test_a_tokenizer_learns_to_reconstruct(pixels: Tensor) -> None:
    tokenizer, errors = trained(pixels)
    ids = tokenizer.encode(pixels)
    assert ids.shape == (4, TOKENS) and int(ids.min()) >= 0 and int(ids.max()) < CODES
    assert tokenizer.decode(ids).shape == pixels.shape
    assert errors[-1] < 0.5 * errors[0]
    assert len({tuple(row.tolist()) for row in ids}) > 1


def test_the_gradient_passes_the_codebook_straight_through(pixels: Tensor) -> None:
    tokenizer = VQTokenizer(32, TOKENS, CODES, 16)
    tokenizer.losses(pixels)[0].backward()
    assert all(weight.grad is not None for weight in tokenizer.encoder.parameters())
    assert not list(tokenizer.codebook.parameters())


def test_unused_codes_restart_at_encodings() -> None:
    torch.manual_seed(0)
    codebook = Codebook(CODES)
    encodings = 100 + torch.randn(50, codebook.vectors.shape[1])
    codebook.update(encodings, codebook.nearest(encodings))
    assert (codebook.vectors.mean(dim=1) > 90).all()  # every code was far from all encodings
    ids = torch.zeros(50, dtype=torch.long)
    for _ in range(100):
        codebook.update(encodings, ids)
    assert torch.allclose(codebook.vectors[0], encodings.mean(dim=0), atol=0.5)


@torch.no_grad()
def test_codes_are_words_of_the_vocabulary(model: VisualGLMForConditionalGeneration, pixels: Tensor) -> None:
    """Read through the image placeholders or written into the prompt, they give the same logits."""
    ids = torch.arange(TOKENS)[None] % CODES
    encoder = CodeEncoder(lambda images: ids, model.transformer.word_embeddings.forward, FIRST)
    codes = (FIRST + ids)[0].tolist()
    placeholders = torch.tensor([[*PROMPT[:2], *[63] * TOKENS, *PROMPT[2:]]])
    written = torch.tensor([[*PROMPT[:2], *codes, *PROMPT[2:]]])
    read = model(placeholders, image_embeds=encoder(pixels[:1])[0]).logits
    assert torch.allclose(read, model(written).logits, atol=1e-5)
    other = torch.tensor([[*PROMPT[:2], *codes[::-1], *PROMPT[2:]]])
    assert not torch.allclose(read, model(other).logits, atol=1e-2)
    assert not list(encoder.parameters())


@torch.no_grad()
def test_sampling_follows_the_model_and_yields_codes_alone(model: VisualGLMForConditionalGeneration) -> None:
    words = range(FIRST, FIRST + CODES)
    prompts = [PROMPT, [4, *PROMPT]]
    greedy = sample_codes(model, prompts, TOKENS, words, top_codes=1)
    for prompt, codes in zip(prompts, greedy, strict=True):
        ids = torch.tensor([[*prompt, *(codes + FIRST).tolist()]])
        logits = model(ids).logits[0, len(prompt) - 1 : -1, FIRST : FIRST + CODES]
        assert logits.argmax(-1).tolist() == codes.tolist()
    sampled = [sample_codes(model, prompts, TOKENS, words, seed) for seed in (1, 1, 2)]
    assert torch.equal(sampled[0], sampled[1]) and not torch.equal(sampled[0], sampled[2])
    assert int(sampled[0].max()) < CODES
