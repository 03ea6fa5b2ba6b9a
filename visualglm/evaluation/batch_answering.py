"""Answer questions about images in batches, greedily.

In: a model, images, question-answer pairs. Out: `EncodedImages` (features of the images) and `AskedQuestion` (a
question with the model's answer and its probability).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..conversation import VisualGLM
from ..inference.batch_generation import generate_batch, padded
from ..inference.generation_settings import generation_settings
from ..inference.text_row import TextRow
from .scenes.qa_pair import QAPair

T = TypeVar("T")
BATCH_SIZE = 64
MAX_ANSWER_TOKENS = 80  # a model in training may never generate the end token


@dataclass(frozen=True)
class AskedQuestion:
    """One question about the image with index `image`, the model's answer, and the probability of that answer."""

    image: int
    exchange: QAPair
    answer: str = ""
    probability: float = 0.0


@dataclass(frozen=True)
class EncodedImages:
    """Features of images: `embeds` [P, image_length, hidden] and the ViT's class tokens [P, vit hidden]."""

    embeds: Tensor
    class_tokens: Tensor

    def __len__(self) -> int:
        return len(self.embeds)


@torch.no_grad()
def encode(model: VisualGLM, images: Iterable[Image.Image]) -> EncodedImages:
    """Encode RGB images batch by batch; a generator of images is consumed lazily."""
    network, process = model.model, model.processor.image_processor
    embeds, class_tokens = [], []
    for batch in batched(images, BATCH_SIZE):
        pixel_values = process(batch, return_tensors="pt")["pixel_values"].to(network.device, network.dtype)
        tokens, pooled = network.image_encoder.read(pixel_values)
        queries, _ = network.image_encoder.qformer(tokens, False)
        embeds.append(network.image_encoder.project(queries, pooled))
        class_tokens.append(tokens[:, 0])
    return EncodedImages(torch.cat(embeds), torch.cat(class_tokens))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def answer_all(
    model: VisualGLM,
    asked: Sequence[AskedQuestion],
    image_embeds: Tensor,
    shift: int = 0,
    with_probability: bool = False,
) -> list[AskedQuestion]:
    """Answer every question greedily.

    Batches group questions whose true answers have similar lengths, because a batch runs until its longest answer ends.

    Args:
        image_embeds: embeddings of the images, [P, image_length, hidden].
        shift: added to each image index, so that every question is asked about a wrong image (a control).
        with_probability: also compute the probability of each answer, which takes one more forward pass.
    """
    settings = generation_settings(model.model, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS)
    indices = ((a.image + shift) % len(image_embeds) for a in asked)
    embeds = (image_embeds[index : index + 1] for index in indices)
    rows = [
        TextRow(model.tokenizer, prompt_ids(model, a.exchange), e, settings) for a, e in zip(asked, embeds, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda i: (len(asked[i].exchange.answer) // 8, len(rows[i].input_ids)))
    answered = list(asked)
    for start in range(0, len(order), BATCH_SIZE):
        part = order[start : start + BATCH_SIZE]
        batch = [rows[i] for i in part]
        generate_batch(model.model, batch)
        probabilities = _answer_probabilities(model, batch) if with_probability else [0.0] * len(batch)
        for index, row, probability in zip(part, batch, probabilities, strict=True):
            answered[index] = replace(asked[index], answer=model.row_answer(row).text, probability=probability)
    return answered


def _answer_probabilities(model: VisualGLM, rows: Sequence[TextRow]) -> list[float]:
    """Return the probability of each generated answer, the product over its tokens."""
    scores, shown = answer_log_probabilities(model, rows, [row.ids for row in rows])
    probabilities: list[float] = (scores * shown).sum(1).exp().tolist()
    return probabilities


@torch.no_grad()
def answer_log_probabilities(
    model: VisualGLM, rows: Sequence[TextRow], answers: Sequence[list[int]]
) -> tuple[Tensor, Tensor]:
    """Return the log probabilities [rows, longest answer] of each answer's ids after the prompt and image of its row,
    and the mask [rows, longest answer] of the ids, in one forward pass."""
    network = model.model
    prompts = [row.input_ids for row in rows]
    ids, mask, start = padded(prompts, answers, int(network.config.pad_token_id or 0))
    ids, mask = ids.to(network.device), mask.to(network.device)
    embeds = torch.cat([row.image_embeds for row in rows if row.image_embeds is not None])
    kept = ids.shape[1] - start + 1
    logits = network(ids, attention_mask=mask, image_embeds=embeds, logits_to_keep=kept).logits[:, :-1]
    return logits.float().log_softmax(-1).gather(-1, ids[:, start:, None])[..., 0], mask[:, start:]


def prompt_ids(model: VisualGLM, exchange: QAPair) -> list[int]:
    """Build the prompt of a question; its image comes before the first turn."""
    return model.processor.build_prompt(exchange.turns, exchange.language).input_ids
