"""Pictures and questions -> greedy answers in batches, and how sure the model is of them.

In: an opened model, pictures, exchanges. Out: `EncodedImages` (what the networks make of pictures) and
`AskedQuestion` (a question with its answer). Knows nothing about where pictures come from or what is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from ..conversation import VisualGLM
from ..inference.batch_generation import GenerationRow, generate_batch, padded
from ..inference.generation_settings import generation_settings
from .scenes.qa_pair import QAPair

BATCH = 64
LONGEST = 80  # tokens of an answer; a model in training may not find its end


@dataclass(frozen=True)
class AskedQuestion:
    """One question about picture number `picture`, what the model said, and the chance it gave that answer."""

    picture: int
    exchange: QAPair
    answer: str = ""
    chance: float = 0.0


@dataclass(frozen=True)
class EncodedImages:
    """Pictures as the model sees them: `slots` [P, image_length, hidden] and the ViT's class token [P, vit hidden]."""

    slots: Tensor
    token: Tensor

    def __len__(self) -> int:
        return len(self.slots)


@torch.no_grad()
def encode(model: VisualGLM, pictures: Iterable[Image.Image]) -> EncodedImages:
    """RGB pictures -> what fills their slots; they are drawn and encoded a batch at a time."""
    network, images = model.model, model.processor.image_processor
    slots, tokens = [], []
    for batch in _batches(pictures):
        pixel_values = images(batch, return_tensors="pt")["pixel_values"].to(network.device, network.dtype)
        patches = network.image_encoder.vit(pixel_values)
        queries, _ = network.image_encoder.qformer(patches, False)
        slots.append(network.image_encoder.glm_proj(queries))
        tokens.append(patches[:, 0])
    return EncodedImages(torch.cat(slots), torch.cat(tokens))


def _batches(pictures: Iterable[Image.Image]) -> Iterator[list[Image.Image]]:
    rest = iter(pictures)
    while batch := list(islice(rest, BATCH)):
        yield batch


def answer_all(
    model: VisualGLM, asked: Sequence[AskedQuestion], pictures: Tensor, shift: int = 0, sure: bool = False
) -> list[AskedQuestion]:
    """Greedy answers to every question; `shift` shows each another picture instead (a control).

    Batches are of questions whose true answers are about as long, for all wait for the longest. With `sure`, the
    chance of each answer is read too (one more pass).
    """
    settings = generation_settings(model.model, do_sample=False, max_new_tokens=LONGEST)
    shown = ((a.picture + shift) % len(pictures) for a in asked)
    embeds = (pictures[number : number + 1] for number in shown)
    rows = [GenerationRow(prompt_ids(model, a.exchange), e, settings) for a, e in zip(asked, embeds, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: (len(asked[i].exchange.answer) // 8, len(rows[i].input_ids)))
    answered = list(asked)
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        batch = [rows[i] for i in part]
        generate_batch(model.model, batch)
        chances = _chances(model, batch) if sure else [0.0] * len(batch)
        for index, row, chance in zip(part, batch, chances, strict=True):
            answered[index] = replace(asked[index], answer=model.row_answer(row).text, chance=chance)
    return answered


@torch.no_grad()
def _chances(model: VisualGLM, rows: Sequence[GenerationRow]) -> list[float]:
    """The probability that the model gives each answer: the product over its tokens."""
    network = model.model
    ids, mask, start = padded(
        [row.input_ids for row in rows], [row.ids for row in rows], int(network.config.pad_token_id or 0)
    )
    ids, mask = ids.to(network.device), mask.to(network.device)
    shown = torch.cat([row.image_embeds for row in rows if row.image_embeds is not None])
    kept = ids.shape[1] - start + 1
    logits = network(ids, attention_mask=mask, image_embeds=shown, logits_to_keep=kept).logits[:, :-1]
    scores = logits.float().log_softmax(-1).gather(-1, ids[:, start:, None])[..., 0]
    chances: list[float] = (scores * mask[:, start:]).sum(1).exp().tolist()
    return chances


def prompt_ids(model: VisualGLM, exchange: QAPair) -> list[int]:
    """The prompt of an exchange; its picture stands before the first turn."""
    return model.processor.build_prompt(exchange.turns, exchange.language).input_ids
