"""Did it help, and what was forgotten? Answers to held-out rows and to other things.

In: an opened model, and dialogues. Out: answers, and the share of them that equals the label. Greedy, so that nothing
but training makes a difference. Knows nothing about training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ..conversation import QUESTIONS, VisualGLM, packed_model
from ..inference.batch_generation import GenerationRow, generate_batch
from ..inference.generation_settings import generation_settings
from ..inference.prompting import ask_prompt
from ..preprocessing.prompt import Language, Turn
from ..preprocessing.tokenizer import process_response

PROBES = (
    (True, QUESTIONS["zh"]),
    (True, QUESTIONS["en"]),
    (False, "你好。"),
    (False, "What is the capital of France?"),
)
"""Questions outside anybody's data (with a picture of the packed model's samples, or none)."""


@dataclass(frozen=True)
class EvalQuestion:
    """A dialogue whose last turn is asked, its pictures, and the answer wanted (None: there is no right one)."""

    turns: list[Turn]
    pictures: list[str]
    wanted: str | None = None


def probes() -> list[EvalQuestion]:
    """The forgetting probe."""
    pictures = sorted(str(path) for path in (packed_model() / "samples").glob("*.png"))[:2]
    asked = []
    for shown, question in PROBES:
        asked += [EvalQuestion([Turn(question, None, 1)], [picture]) for picture in pictures] if shown else []
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
    """The greedy answers, one by one, computed as training computes (`dtype`, by autocast unless it is float32)."""
    inside = model.model
    settings = generation_settings(inside, do_sample=False, max_new_tokens=max_new_tokens)
    said = []
    inside.eval()
    with torch.autocast(inside.device.type, dtype, enabled=dtype != torch.float32):
        for one in asked:
            embeds = torch.cat([model.encode(path) for path in one.pictures]) if one.pictures else None
            turns = [*one.turns[:-1], replace(one.turns[-1], answer=None)]
            prompt = ask_prompt(model.processor, turns, language, settings.limits)
            row = GenerationRow(prompt.input_ids, embeds, settings)
            generate_batch(inside, [row])
            said.append(model.row_answer(row).text)
    return said


def share_right(asked: list[EvalQuestion], said: list[str]) -> float:
    """The share of answers that equal the wanted one, but for case, spaces and the last punctuation mark."""
    right = [
        normalize_answer(one.wanted or "") == normalize_answer(answer) for one, answer in zip(asked, said, strict=True)
    ]
    return sum(right) / max(1, len(right))


def normalize_answer(text: str) -> str:
    return re.sub(r"\s+|[.。!！?？]+$", "", process_response(text).strip().lower())
