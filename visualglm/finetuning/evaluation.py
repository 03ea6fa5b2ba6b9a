"""Evaluation of fine-tuning: answers to held-out rows, and to other questions that show forgetting.

In: a loaded model and chats. Out: greedy answers, and the fraction that equals the label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ..conversation import VisualGLM, packed_model
from ..inference.batch_generation import generate_batch
from ..inference.generation_settings import generation_settings
from ..inference.start_reply import ask_prompt
from ..inference.text_row import TextRow
from ..preprocessing.describe_questions import DEFAULT_QUESTIONS
from ..preprocessing.prompt import Language, Turn
from ..preprocessing.tokenizer import process_response

PROBES = (
    (True, DEFAULT_QUESTIONS["zh"]),
    (True, DEFAULT_QUESTIONS["en"]),
    (False, "你好。"),
    (False, "What is the capital of France?"),
)
"""(with an image, question): questions that are unlikely to be in the training data."""


@dataclass(frozen=True)
class EvalQuestion:
    """A chat whose last turn is asked, its images, and the expected answer (None: any)."""

    turns: list[Turn]
    images: list[str]
    wanted: str | None = None


def probes() -> list[EvalQuestion]:
    """Return the questions that show forgetting, with images of the packed model's samples."""
    images = sorted(str(path) for path in (packed_model() / "samples").glob("*.png"))[:2]
    asked = []
    for shown, question in PROBES:
        asked += [EvalQuestion([Turn(question, None, 1)], [image]) for image in images] if shown else []
        asked += [] if shown else [EvalQuestion([Turn(question)], [])]
    return asked


@torch.no_grad()
def answers(
    model: VisualGLM,
    asked: Iterable[EvalQuestion],
    language: Language,
    max_new_tokens: int,
    dtype: torch.dtype = torch.float32,
) -> list[str]:
    """Answer greedily, one question at a time, in the dtype of training (by autocast unless it is float32)."""
    inside = model.model
    settings = generation_settings(inside, do_sample=False, max_new_tokens=max_new_tokens)
    said = []
    inside.eval()
    with torch.autocast(inside.device.type, dtype, enabled=dtype != torch.float32):
        for one in asked:
            embeds = torch.cat([model.encode(path) for path in one.images]) if one.images else None
            turns = [*one.turns[:-1], replace(one.turns[-1], answer=None)]
            prompt = ask_prompt(model.processor, turns, language, settings.limits)
            row = TextRow(model.tokenizer, prompt.input_ids, embeds, settings)
            generate_batch(inside, [row])
            said.append(model.row_answer(row).text)
    return said


def fraction_correct(asked: list[EvalQuestion], said: list[str]) -> float:
    """Return the fraction of answers that equal the expected one after `normalize_answer`."""
    right = [
        normalize_answer(one.wanted or "") == normalize_answer(answer) for one, answer in zip(asked, said, strict=True)
    ]
    return sum(right) / max(1, len(right))


def normalize_answer(text: str) -> str:
    """Remove case, whitespace and the final punctuation mark."""
    return re.sub(r"\s+|[.。!！?？]+$", "", process_response(text).strip().lower())
