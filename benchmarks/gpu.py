"""The 6B's shapes with random weights on a GPU, in every form, relative to its memory bandwidth.

Run `make bench-gpu` on a machine with a GPU (40 GB; CUDA build of torch). Measures image encoding, the first token of a
prompt with an encoded image, and tokens per second of one answer and of eight, with and without a compiled step; with
`--peers` also upstream's own code on the same card. `--small` runs the packed model's shapes, also on a CPU, to check
this file. Stores `benchmarks/results/gpu.json`. Its figures are not quoted before it has been run.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, origin, store, timed

import visualglm
from visualglm.benchmarking.random_weights import blocks_and_head, random_model
from visualglm.benchmarking.throughput import bytes_per_token, random_image, random_prompt, synchronized
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig

sys.path.insert(0, str(Path(__file__).with_name("peers")))
from paired import Peer

FORMS: dict[str, Any] = {"bfloat16": None, "int8": 8, "int4": 4}
SCRIPT = Path(__file__).with_name("peers") / "upstream_side.py"
ROWS = (1, 8)
TIMES = 3


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="the packed model's shapes")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--peers", type=Path, help="a Python that has deep-training and sat, with a CUDA torch")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args()
    config = VisualGLMConfig.from_pretrained(visualglm.packed_model()) if options.small else VisualGLMConfig()
    config.tie_word_embeddings = False  # as in the 6B; a tied head cannot be in other bits than its table
    bandwidth = memory_bandwidth(options.device)
    found: dict[str, Any] = {form: measured(config, bits, options, bandwidth) for form, bits in FORMS.items()}
    if options.peers:
        found["upstream, float16"] = beside_upstream(options)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else options.device
    head = {**origin(__file__), "device": name, "bandwidth_gb_per_second": round(bandwidth / 1e9, 1)}
    store(options.output, {**head, "prompt_tokens": options.prompt, "tokens": options.tokens, **found})


@torch.inference_mode()
def measured(config: VisualGLMConfig, bits: Any, options: argparse.Namespace, bandwidth: float) -> dict[str, Any]:
    """Return one form's median seconds of an image and a first token, and tokens per second."""
    model = random_model(config, blocks_and_head(bits), options.device)
    image = random_image(config).to(options.device, torch.bfloat16)
    seen = {"ids": random_prompt(config, options.prompt).to(options.device), "embeds": model.encode_images(image)}
    figures: dict[str, Any] = {
        "image_seconds": median_seconds(model.encode_images, image),
        "first_token_seconds": median_seconds(answer, model, seen, 1, 1),
    }
    least = bytes_per_token(model) / bandwidth
    for name, cache in (("as it is", "dynamic"), ("compiled", "static")):
        for rows in ROWS:
            torch.compiler.reset()  # otherwise a second number of rows is compiled for any number
            answer(model, seen, rows, 8, cache_implementation=cache)  # compiles
            seconds = seconds_per_token(model, seen, rows, options.tokens, cache)
            figures[f"{name}, {rows} at once"] = {
                "tokens_per_second": round(rows / seconds, 2),
                "of_bandwidth": round(least / seconds, 3),
            }
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return figures


def answer(model: VisualGLMForConditionalGeneration, seen: dict[str, Any], rows: int, tokens: int, **how: Any) -> Any:
    """Generate exactly that many tokens for each row."""
    ids, embeds = seen["ids"].repeat(rows, 1), seen["embeds"].repeat(rows, 1, 1)
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    return model.generate(ids, image_embeds=embeds, do_sample=False, **length, **how)


def seconds_per_token(
    model: VisualGLMForConditionalGeneration, seen: dict[str, Any], rows: int, tokens: int, cache: str
) -> float:
    """Return seconds per token of a whole answer without its first token, including all overhead."""
    whole = median_seconds(answer, model, seen, rows, tokens + 1, cache_implementation=cache)
    return (whole - median_seconds(answer, model, seen, rows, 1, cache_implementation=cache)) / tokens


def median_seconds(call: Any, *arguments: Any, **keywords: Any) -> float:
    """Return the median seconds until the device has finished, after one warm-up call."""
    synchronized(call, *arguments, **keywords)
    return round(statistics.median(timed(synchronized, call, *arguments, **keywords)[1] for _ in range(TIMES)), 5)


def memory_bandwidth(device: str) -> float:
    """Return bytes per second, read and written, of copying a block larger than every cache."""
    block = torch.ones(2**28, device=device)
    other = torch.empty_like(block)
    return 2 * block.nbytes / median_seconds(other.copy_, block)


def beside_upstream(options: argparse.Namespace) -> dict[str, Any]:
    """Measure upstream's own code, all its blocks, on the same device."""
    peer = Peer(options.peers, SCRIPT, "28", options.device)
    seconds, prompt = {}, f"prompt {options.prompt}"
    for request, count in (("image", TIMES), (prompt, TIMES), ("token", options.tokens)):
        peer.seconds(request)  # warms up
        seconds[request] = statistics.median(peer.seconds(request) for _ in range(count))
    peer.close()
    return {
        "image_seconds": round(seconds["image"], 5),
        "first_token_seconds": round(seconds[prompt], 5),
        "as it is, 1 at once": {"tokens_per_second": round(1 / seconds["token"], 2)},
    }


if __name__ == "__main__":
    main()
