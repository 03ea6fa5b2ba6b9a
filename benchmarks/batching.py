"""How often an answer in a batch differs from the same answer alone (`make bench-batching`).

Matrix products round differently for one row than for eight, and so does attention with padding. An answer changes only
where two tokens are equally likely to within that rounding. Each such position is reported with its gap: the difference
of the two tokens' log probabilities (sampled answers: after the same noise) in the run alone. Stores
`benchmarks/results/batching.json`.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import torch
from record import RESULTS, origin, store
from transformers import LogitsProcessorList

import visualglm
from visualglm.evaluation.scenes import Split, render_scene, scene_of, seeds
from visualglm.inference.batch_generation import GenerationRow, generate_batch, row_processors
from visualglm.network.sampling import SeededDraw

QUESTIONS = ("这张图片里有什么？", "What is in the picture?", "描述这张图片。", "How many objects are there?")
SAMPLINGS: tuple[dict[str, Any], ...] = ({}, {"do_sample": True, "temperature": 1.0}, {"do_sample": True, "top_p": 0.8})
BATCH = 8


def main() -> None:
    """Answer everything twice."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--answers", type=int, default=1000)
    options = parser.parse_args()
    model = visualglm.load(options.model)
    changed = []
    for begin in range(0, options.answers, BATCH):
        numbers = range(begin, min(begin + BATCH, options.answers))
        together, apart = ([make_row(model, number) for number in numbers] for _ in range(2))
        generate_batch(model.model, together)
        for one, other in zip(together, apart, strict=True):
            generate_batch(model.model, [other])
            if one.ids != other.ids:
                changed.append(gap(model, one, other))
    figures = {
        **origin(__file__),
        "model": options.model or "visualglm-mini",
        "dtype": str(model.model.dtype),
        "batch": BATCH,
        "answers": options.answers,
        "answers_that_changed": len(changed),
        "percent": round(100 * len(changed) / options.answers, 3),
        "gaps_in_log_probability": changed,
    }
    store(RESULTS / "batching.json", figures)


def make_row(model: visualglm.VisualGLM, number: int) -> GenerationRow:
    """Build one of many requests: image, question, sampling and seed follow from its number."""
    seed = next(itertools.islice(seeds(Split.TEST), number // 4, None))
    embeds = model.encode(render_scene(scene_of(seed)))
    question, sampling = QUESTIONS[number % len(QUESTIONS)], SAMPLINGS[number % len(SAMPLINGS)]
    return model.row(embeds, question, seed=number, **sampling)


def gap(model: visualglm.VisualGLM, together: GenerationRow, alone: GenerationRow) -> float:
    """Return how much likelier the token alone was than the batch's, where they first differ."""
    place = next(i for i, pair in enumerate(zip(together.ids, alone.ids, strict=False)) if pair[0] != pair[1])
    scores = row_scores(model.model, alone, place).log_softmax(-1)
    if alone.settings.config.do_sample:
        noise = torch.Generator(model.model.device).manual_seed(alone.settings.seed)
        for _ in range(place + 1):  # one draw per token, as in `torch.multinomial`
            drawn = torch.empty_like(scores).exponential_(generator=noise)
        scores = scores - drawn.log()
    assert int(scores.argmax()) == alone.ids[place], "the run alone is reproduced"
    return round(float(scores[0, alone.ids[place]] - scores[0, together.ids[place]]), 8)


@torch.no_grad()
def row_scores(model: Any, row: GenerationRow, place: int) -> torch.Tensor:
    """Return the processed scores [1, vocabulary] from which a finished row drew its token number `place`."""
    ids = torch.tensor([row.input_ids + row.ids[:place]], device=model.device)
    logits = model(input_ids=ids, image_embeds=row.image_embeds, logits_to_keep=1, use_cache=False).logits
    processors = [one for one in row_processors(model, row) if not isinstance(one, SeededDraw)]
    return LogitsProcessorList(processors)(ids, logits[:, -1].float())  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
