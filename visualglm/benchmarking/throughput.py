"""Seconds of a model's parts: picture, prompt, tokens of the answer, beside what memory allows.

A decoded token reads every weight of the language model once, so memory sets its limit; the bandwidth is measured
between the tokens, since it changes while neighbours come and go. Figures are medians; of one thread, processor time.
Knows nothing about files.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from ..hardware.machine_report import BandwidthProbe, timed_alone
from ..model import VisualGLMForConditionalGeneration
from ..network.configuration import VisualGLMConfig

ROWS = (1, 8)
"""Dialogues decoded at once."""


@torch.inference_mode()
def measure(model: VisualGLMForConditionalGeneration, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    """Picture, prompt of `prompt_tokens` with its picture, and `tokens` steps of 1 and of 8 rows, after a warm-up.

    The prompt is not shorter than the picture's slots and the two tokens that end it.
    """
    config = model.config
    picture = random_picture(config).to(model.device, model.dtype)
    image_embeds, _ = timed_alone(model.encode_images, picture)
    ids = random_prompt(config, prompt_tokens).to(model.device)
    model(ids, image_embeds=image_embeds, logits_to_keep=1)
    probe = BandwidthProbe()
    seeing = [timed_alone(finished, model.encode_images, picture)[1] for _ in range(3)]
    reading = [timed_alone(finished, model, ids, image_embeds=image_embeds, logits_to_keep=1)[1] for _ in range(3)]
    return {
        "prompt_tokens": ids.shape[1],
        "picture_seconds": _rounded(statistics.median(seeing)),
        "prompt_seconds": _rounded(statistics.median(reading)),
        "prompt_tokens_per_second": _rounded(ids.shape[1] / statistics.median(reading)),
        "bytes_per_token": bytes_per_token(model),
        "decode": [decoding(model, ids.expand(rows, -1), image_embeds, tokens, probe) for rows in ROWS],
    }


def random_picture(config: VisualGLMConfig) -> Tensor:
    """`pixel_values` [1, channels, H, W] of noise."""
    size = config.vision.image_size
    return torch.randn(1, config.vision.in_channels, size, size)


def random_prompt(config: VisualGLMConfig, tokens: int) -> Tensor:
    """Ids [1, tokens]: a picture's slots, words, and the end of a prompt."""
    slots = torch.full((config.image_length,), config.image_token_id or 0)
    words = torch.randint(4, min(config.mask_token_id, config.vocab_size), (max(tokens - len(slots) - 2, 0),))
    return torch.cat([slots, words, torch.tensor([config.gmask_token_id, config.bos_token_id])])[None]


def decoding(
    model: VisualGLMForConditionalGeneration, ids: Tensor, image_embeds: Tensor, tokens: int, probe: BandwidthProbe
) -> dict[str, Any]:
    """So many rows together, a token each at a time, with a reading of the bandwidth after every token."""
    rows = len(ids)
    step = model(ids, image_embeds=image_embeds.repeat(rows, 1, 1), logits_to_keep=1)
    seconds, bandwidths = [], []
    for _ in range(tokens + 1):
        next_ids = step.logits[:, -1:].float().argmax(-1)
        step, elapsed = timed_alone(finished, model, next_ids, past_key_values=step.past_key_values)
        seconds.append(elapsed)
        bandwidths.append(probe.measure() if model.device.type == "cpu" else 0.0)
    median, bandwidth = statistics.median(seconds[1:]), statistics.median(bandwidths)
    speed = bytes_per_token(model) / median
    return {
        "rows": rows,
        "seconds_per_token": _rounded(median),
        "fastest_seconds_per_token": _rounded(min(seconds[1:])),
        "tokens_per_second": _rounded(rows / median),
        "gb_per_second": _rounded(speed / 1e9),
        "bandwidth_gb_per_second": _rounded(bandwidth / 1e9),
        "of_bandwidth": _rounded(speed / bandwidth) if bandwidth else None,
    }


def bytes_per_token(model: nn.Module) -> int:
    """What a step reads: all tensors of the language model and its head, not the table that rows are picked from."""
    parts = [model.get_submodule("transformer"), model.get_submodule("lm_head")]
    tensors = {id(t): t for part in parts for t in [*part.parameters(), *part.buffers()]}
    embeddings = model.get_submodule("transformer.word_embeddings")
    if not model.config.tie_word_embeddings:  # type: ignore[union-attr]
        for tensor in [*embeddings.parameters(), *embeddings.buffers()]:
            tensors.pop(id(tensor), None)
    return sum(tensor.nbytes for tensor in tensors.values())


def finished(call: Any, *arguments: Any, **keywords: Any) -> Any:
    """The result once it is there: a GPU computes on after the call returned."""
    result = call(*arguments, **keywords)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def _rounded(number: float) -> float:
    """Four digits say more than the measurement does."""
    return float(f"{number:.4g}")
