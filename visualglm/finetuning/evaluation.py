"""Evaluation of fine-tuning: answers to held-out rows, and to other questions that show forgetting.

In: a loaded model and chats. Out: greedy answers, and the fraction that equals the label.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ..conversation import VisualGLM, packed_model
from ..evaluation.metrics import Estimate, Metric, estimate
from ..evaluation.vqa_answers import short_answer_statistics
from ..inference.batch_generation import generate_batch
from ..inference.generation_settings import generation_settings
from ..inference.start_reply import ask_prompt
from ..inference.text_row import TextRow
from ..preprocessing.describe_questions import DEFAULT_QUESTIONS
from ..preprocessing.prompt import Language, Turn

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


def score(asked: list[EvalQuestion], said: list[str]) -> Estimate | None:
    """Estimate the fraction of right answers, as `visualglm evaluate` does; None without questions."""
    rows = [
        _Row(str(number), one.images[0] if one.images else str(number), {"exact": (float(is_right(one, answer)), 1.0)})
        for number, (one, answer) in enumerate(zip(asked, said, strict=True))
    ]
    return estimate(Metric("exact match", "exact"), rows)


@dataclass(frozen=True)
class _Row:
    """A question as an estimate counts it; those about one image are a group."""

    id: str
    group: str
    statistics: dict[str, tuple[float, float]]


def is_right(asked: EvalQuestion, answer: str) -> bool:
    """True if an answer equals the expected one by the exact match of `visualglm evaluate --task vqa`."""
    wanted = asked.wanted or ""
    return answer == wanted or short_answer_statistics(answer, (wanted,))["exact"][0] == 1.0
