"""Time of an explanation, as a multiple of the answer's, at the 6B's shapes (`make bench-explain`).

    python benchmarks/explaining.py [--prompt N] [--tokens N] [--method M] [--scale N] [-o FILE]

Random weights, the language model in 4 bits, image encoder and vocabulary in 8 bits (6 GB of memory). The answer is
image, prompt and tokens; the explanation is the map and the deletion curve with the defaults of `visualglm explain`.
Stores `benchmarks/results/explaining.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

import torch
from full_size import configuration
from record import RESULTS, origin, store, timed

from visualglm.benchmarking.random_weights import random_model
from visualglm.benchmarking.throughput import random_image, random_prompt
from visualglm.checkpoints import quantization_plan
from visualglm.explanation.attribution import Method, attribute
from visualglm.explanation.deletion import answer_score, finish, measure_deletion
from visualglm.hardware.machine_report import peak_memory
from visualglm.kernels import cpu_backend
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=56, help="tokens of the prompt, image included")
    parser.add_argument("--tokens", type=int, default=60, help="tokens of the answer")
    parser.add_argument("--method", choices=get_args(Method), default="rollout", help="how the map is computed")
    parser.add_argument("--scale", type=int, choices=(1, 2, 4, 8), default=1, help="divide every width by this")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "explaining.json", help="file for the figures")
    arguments = parser.parse_args()
    figures = measure(configuration(arguments.scale), arguments.prompt, arguments.tokens, arguments.method)
    store(arguments.output, {**origin(__file__), **figures})


def measure(config: VisualGLMConfig, prompt_tokens: int, tokens: int, method: Method) -> dict[str, Any]:
    """Time an answer of `tokens` tokens, and its explanation."""
    model = random_model(config, quantization_plan(4, vision=8, vocabulary=8))
    prompt, pixel_values = random_prompt(config, prompt_tokens), random_image(config).to(model.dtype)
    answer(model, prompt, pixel_values, 1)  # arranges the weights
    said, answering = timed(answer, model, prompt, pixel_values, tokens)
    ids = torch.cat([prompt, said], 1)
    with peak_memory() as peak:
        found, mapping = timed(attribute, model, ids, tokens, pixel_values, method=method)
        score = answer_score(model, ids, tokens, range(tokens))
        curve = measure_deletion(score, pixel_values, found.maps.mean(0), float(found.log_probabilities.mean()))
        _, deleting = timed(finish, curve)
    return {
        "kernel": cpu_backend.path(),
        "method": method,
        "prompt_tokens": prompt.shape[1],
        "tokens": tokens,
        "answer_seconds": round(answering, 2),
        "map_seconds": round(mapping, 2),
        "curve_seconds": round(deleting, 2),
        "ratio": round((mapping + deleting) / answering, 2),
        "peak_anonymous_gb": round(peak[0] / 1e9, 2),
    }


@torch.inference_mode()
def answer(
    model: VisualGLMForConditionalGeneration, prompt: torch.Tensor, pixel_values: torch.Tensor, tokens: int
) -> torch.Tensor:
    """Return `tokens` greedy ids [1, tokens] of an answer."""
    step = model(prompt, image_embeds=model.encode_images(pixel_values), logits_to_keep=1)
    ids = [step.logits[:, -1:].argmax(-1)]
    while len(ids) < tokens:
        step = model(ids[-1], past_key_values=step.past_key_values)
        ids.append(step.logits[:, -1:].argmax(-1))
    return torch.cat(ids, 1)


if __name__ == "__main__":
    main()
