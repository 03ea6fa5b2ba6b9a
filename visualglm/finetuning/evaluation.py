"""Evaluation of fine-tuning: answers to held-out rows, and to other questions that show forgetting.

In: a loaded model and chats. Out: greedy answers, and the fraction that equals the label.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ..conversation import VisualGLM
from ..evaluation.metrics import Estimate, Metric, estimate
from ..evaluation.vqa_answers import short_answer_statistics
from ..hub.local_folder import packed_model
from ..inference.batch_generation import generate_batch
from ..inference.generation_settings import generation_settings
from ..inference.start_reply import ask_prompt
from ..inference.text_row import TextRow
from ..preprocessing.describe_questions import DEFAULT_QUESTIONS
from ..preprocessing.prompt import Language, Turn

PROBES = (
    *((True, question) for question in (DEFAULT_QUESTIONS["zh"], DEFAULT_QUESTIONS["en"]) for _ in range(4)),
    *((True, question) for question in ("这张图片里有什么？", "图里一共有几个物体？", "这是什么？", "左边是什么？")),
    *((True, question) for question in ("图里有月亮吗？", "图里有红色的东西吗？", "图里有几个圆形？", "这是动物吗？")),
    *((True, question) for question in ("最大的物体在哪里？", "中间的物体是什么颜色的？", "背景是什么颜色的？")),
    *((True, question) for question in ("图里都有哪些东西？", "右上角是什么？", "图里有没有动物？")),
    *((True, question) for question in ("What is in this picture?", "How many objects are there in total?")),
    *((True, question) for question in ("What is this thing?", "What is on the right?", "Is there a house?")),
    *((True, question) for question in ("Is anything blue?", "How many stars are there?", "Is it a plant?")),
    *((True, question) for question in ("Where is the largest object?", "What colour is the object in the middle?")),
    *((True, question) for question in ("What colour is the background?", "List all objects.", "What is at the top?")),
    (True, "Are there any animals?"),
    *((False, question) for question in ("你好。", "你能帮我做什么？", "法国的首都是哪里？")),
    *((False, question) for question in ("Good morning.", "Can you help me?", "What is the capital of France?")),
)
"""(with an image, question): questions of many kinds that are unlikely to be in the training data."""


@dataclass(frozen=True)
class EvalQuestion:
    """A chat whose last turn is asked, its images, and the expected answer (None: any)."""

    turns: list[Turn]
    images: list[str]
    wanted: str | None = None


def probes() -> list[EvalQuestion]:
    """Return the questions that show forgetting; the packed model's samples take turns as their images."""
    images = itertools.cycle(sorted(str(path) for path in (packed_model() / "samples").glob("*.png")))
    return [
        EvalQuestion([Turn(question, None, int(shown))], [next(images)] if shown else []) for shown, question in PROBES
    ]


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
    """Return True if an answer equals the expected one by the exact match of `visualglm evaluate --task vqa`."""
    wanted = asked.wanted or ""
    return answer == wanted or short_answer_statistics(answer, (wanted,))["exact"][0] == 1.0
