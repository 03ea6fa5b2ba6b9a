"""Throughput of a model: image encoding, prefill and decoding, compared with memory bandwidth.

Decoding a token reads every weight of the language model once, so memory bandwidth limits it. The bandwidth is measured
between the tokens, because other processes change it. A prompt of a quantized model is limited by int8 products
(AVX512-VNNI), whose peak is measured between prompts. Figures are medians; with one thread they are CPU seconds.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from ..hardware.machine_report import BandwidthProbe, multiplication_peak, timed_alone
from ..model import VisualGLMForConditionalGeneration
from ..network.configuration import VisualGLMConfig
from ..quantization import QuantizedLinear

ROWS = (1, 8)
"""Batch sizes to decode with."""


@torch.inference_mode()
def measure(model: VisualGLMForConditionalGeneration, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    """Time an image, the prefill of `prompt_tokens` and `tokens` decoding steps of 1 and of 8 rows, after a warm-up.

    The prompt has at least the image placeholders and the two tokens that end it.
    """
    config = model.config
    image = random_image(config).to(model.device, model.dtype)
    image_embeds, _ = timed_alone(model.encode_images, image)
    ids = random_prompt(config, prompt_tokens).to(model.device)
    model(ids, image_embeds=image_embeds, logits_to_keep=1)
    probe = BandwidthProbe()
    encoding = [timed_alone(synchronized, model.encode_images, image)[1] for _ in range(3)]
    prefill, peaks = [], []
    for _ in range(3):
        prefill.append(timed_alone(synchronized, model, ids, image_embeds=image_embeds, logits_to_keep=1)[1])
        peaks.append(multiplication_peak() if model.device.type == "cpu" else 0.0)
    speed, peak = ids.shape[1] * quantized_products(model) / statistics.median(prefill), statistics.median(peaks)
    return {
        "prompt_tokens": ids.shape[1],
        "image_seconds": _round(statistics.median(encoding)),
        "prompt_seconds": _round(statistics.median(prefill)),
        "prompt_tokens_per_second": _round(ids.shape[1] / statistics.median(prefill)),
        "prompt_of_peak": _round(speed / peak) if speed and peak else None,
        "bytes_per_token": bytes_per_token(model),
        "decode": [measure_decoding(model, ids.expand(rows, -1), image_embeds, tokens, probe) for rows in ROWS],
    }


def random_image(config: VisualGLMConfig) -> Tensor:
    """Return `pixel_values` [1, channels, H, W] of noise."""
    size = config.vision.image_size
    return torch.randn(1, config.vision.in_channels, size, size)


def random_prompt(config: VisualGLMConfig, tokens: int) -> Tensor:
    """Return ids [1, tokens]: image placeholders, random text, and the end of a prompt."""
    placeholders = torch.full((config.image_length,), config.image_token_id or 0)
    words = torch.randint(4, min(config.mask_token_id, config.vocab_size), (max(tokens - len(placeholders) - 2, 0),))
    return torch.cat([placeholders, words, torch.tensor([config.gmask_token_id, config.bos_token_id])])[None]


def measure_decoding(
    model: VisualGLMForConditionalGeneration, ids: Tensor, image_embeds: Tensor, tokens: int, probe: BandwidthProbe
) -> dict[str, Any]:
    """Time decoding steps of the batch `ids`, and measure the memory bandwidth after every step."""
    rows = len(ids)
    step = model(ids, image_embeds=image_embeds.repeat(rows, 1, 1), logits_to_keep=1)
    seconds, bandwidths = [], []
    for _ in range(tokens + 1):
        next_ids = step.logits[:, -1:].float().argmax(-1)
        step, elapsed = timed_alone(synchronized, model, next_ids, past_key_values=step.past_key_values)
        seconds.append(elapsed)
        bandwidths.append(probe.measure() if model.device.type == "cpu" else 0.0)
    median, bandwidth = statistics.median(seconds[1:]), statistics.median(bandwidths)
    speed = bytes_per_token(model) / median
    return {
        "rows": rows,
        "seconds_per_token": _round(median),
        "fastest_seconds_per_token": _round(min(seconds[1:])),
        "tokens_per_second": _round(rows / median),
        "gb_per_second": _round(speed / 1e9),
        "bandwidth_gb_per_second": _round(bandwidth / 1e9),
        "of_bandwidth": _round(speed / bandwidth) if bandwidth else None,
    }


def bytes_per_token(model: nn.Module) -> int:
    """Return the bytes that a decoding step reads: the language model and LM head, without untied word embeddings."""
    parts = [model.get_submodule("transformer"), model.get_submodule("lm_head")]
    tensors = {id(t): t for part in parts for t in [*part.parameters(), *part.buffers()]}
    embeddings = model.get_submodule("transformer.word_embeddings")
    if not model.config.tie_word_embeddings:  # type: ignore[union-attr]
        for tensor in [*embeddings.parameters(), *embeddings.buffers()]:
            tensors.pop(id(tensor), None)
    return sum(tensor.nbytes for tensor in tensors.values())


def quantized_products(model: nn.Module) -> int:
    """Return the int8 products of a token in the language model's quantized layers."""
    layers = model.get_submodule("transformer.layers").modules()
    return sum(layer.in_features * layer.out_features for layer in layers if isinstance(layer, QuantizedLinear))


def synchronized(call: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call and wait until the GPU has finished: kernels run asynchronously."""
    result = call(*arguments, **keywords)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def _round(number: float) -> float:
    """Round to four significant digits, the precision of the measurement at best."""
    return float(f"{number:.4g}")
