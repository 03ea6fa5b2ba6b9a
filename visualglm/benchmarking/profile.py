"""Measure what takes the time of a prompt and of a token, in parts that add up to the whole.

torch's profiler gives the time of each operator without those that it calls; what is left is Python and torch's
dispatch between them, the profiler's own work included. The shares are those of the profiled calls, the whole is the
median of calls without a profiler. What `generate` takes beyond the model's steps is its own loop.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ..hardware.machine_report import timed_alone
from ..model import VisualGLMForConditionalGeneration
from .throughput import random_image, random_prompt, synchronized

PARTS = {
    "linear layers": ("arranged_", "linear_", "mm", "bmm", "addmm", "linear", "mkldnn"),
    "attention": ("attend_one", "_scaled_dot_product", "scaled_dot_product", "_softmax", "softmax"),
    "layer norms": ("native_layer_norm", "layer_norm"),
    "GELU": ("gelu",),
    "copies": ("copy_", "cat", "contiguous", "index", "clone", "_to_copy"),
}
"""Part -> beginnings of the names of its operators; all others are arithmetic and views."""
OTHERS, BETWEEN, LOOP = "arithmetic, views", "Python, dispatch", "loop of generate"


@torch.inference_mode()
def measure_parts(model: VisualGLMForConditionalGeneration, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    """Time the parts of a prompt of `prompt_tokens` and of one of `tokens` greedy tokens behind it, on a CPU.

    In seconds; `whole` is the sum of the others.
    """
    image_embeds = model.encode_images(random_image(model.config).to(model.device, model.dtype))
    ids = random_prompt(model.config, prompt_tokens).to(model.device)

    def read() -> Any:
        return model(ids, image_embeds=image_embeds, logits_to_keep=1)

    step = read()

    def write() -> None:
        nonlocal step
        step = model(step.logits[:, -1:].float().argmax(-1), past_key_values=step.past_key_values)

    prompt, token = _parts(read, 3), _parts(write, tokens)
    loop = max(0.0, _generated(model, ids, image_embeds, tokens) - token["whole"])
    return {"prompt": prompt, "token": token | {"whole": token["whole"] + loop, LOOP: loop}}


def _parts(call: Callable[[], Any], count: int) -> dict[str, float]:
    """Time a call, `whole`, and its operators by part."""
    call()
    whole = statistics.median(timed_alone(synchronized, call)[1] for _ in range(count))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        profiled_whole = sum(timed_alone(call)[1] for _ in range(count))
    shares = dict.fromkeys([*PARTS, OTHERS], 0.0)
    for event in profiled.key_averages():
        name = event.key.split("::")[-1]
        part = next((part for part, beginnings in PARTS.items() if name.startswith(beginnings)), OTHERS)
        shares[part] += event.self_cpu_time_total / 1e6 / profiled_whole
    shares[BETWEEN] = 1 - sum(shares.values())
    return {"whole": whole, **{name: share * whole for name, share in shares.items()}}


def _generated(model: VisualGLMForConditionalGeneration, ids: Tensor, image_embeds: Tensor, tokens: int) -> float:
    """Return the seconds of one token in `generate`: the difference between a long and a short answer."""

    def generate(count: int) -> float:
        how = {"do_sample": False, "min_new_tokens": count, "max_new_tokens": count}
        return timed_alone(synchronized, model.generate, ids, image_embeds=image_embeds, **how)[1]

    generate(1)
    return (generate(1 + tokens) - generate(1)) / tokens
