"""The full 7.8B on this machine: write random weights, load, answer once (`make full-size`).

The checkpoint has upstream's layout (five float16 shards, 15.6 GB), random weights of a realistic scale and a stand-in
vocabulary; it is deleted afterwards. Prints one JSON object (load seconds, peak anonymous memory, seconds per token)
and stores it in `benchmarks/results/full_size.json`, or, quantized while loading (`--quantize 4`), in
`full_size_4bit.json`, with the estimate of `visualglm fit`. `--limit-gb` limits the memory of the process from then on
(RLIMIT_DATA). Quality is not measured.
"""

from __future__ import annotations

import argparse
import math
import resource
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from record import RESULTS, origin, store, timed
from torch import Tensor

from visualglm.checkpoints import Checkpoint, open_checkpoint, quantization_plan
from visualglm.checkpoints.convert import MAX_SHARD_SIZE
from visualglm.checkpoints.formats import hugging_face
from visualglm.checkpoints.memory_estimate import estimate_memory
from visualglm.checkpoints.storage.lazy_tensor import LazyTensor
from visualglm.checkpoints.tensor_check import expected_shapes
from visualglm.hardware.machine_report import peak_memory
from visualglm.hardware.memory import anonymous_memory, free_memory
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig
from visualglm.preprocessing.processor import VisualGLMProcessor

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = ROOT / "tests" / "reference" / "hf" / "ice_text.model"
QUESTION = "描述这张图片。"
TABLE = (1 << 24) - 3  # odd, so that rows do not repeat
SPREAD = 0.02  # standard deviation of the random weights, as such models are initialised


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="folder for the 15.6 GB (default: a temporary one)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate")
    parser.add_argument("-o", "--output", type=Path, default=None, help="file for the figures")
    parser.add_argument("--quantize", type=int, choices=(8, 4))
    parser.add_argument("--quantize-vision", type=int, choices=(8, 4))
    parser.add_argument("--quantize-vocabulary", type=int, choices=(8,))
    parser.add_argument("--limit-gb", type=float, help="limit of memory for loading and answering")
    parser.add_argument(
        "--scale", type=int, choices=(1, 2, 4, 8), default=1, help="divide every width by this, for a trial"
    )
    arguments = parser.parse_args()
    bits = arguments.quantize
    rest = {"vision": arguments.quantize_vision, "vocabulary": arguments.quantize_vocabulary}
    plan = quantization_plan(bits, **rest) if bits else None
    figures = measure(configuration(arguments.scale), arguments.folder, arguments.tokens, plan, arguments.limit_gb)
    store(arguments.output or RESULTS / (f"full_size_{bits}bit.json" if bits else "full_size.json"), figures)


def configuration(scale: int) -> VisualGLMConfig:
    """Build VisualGLM-6B's configuration with widths divided by `scale`, and ids of the stand-in vocabulary."""
    vision = {"hidden_size": 1408 // scale, "inner_hidden_size": 6144 // scale}
    qformer = {"hidden_size": 768 // scale, "cross_attn_hidden_size": 1408 // scale}
    ids = {"mask_token_id": 400, "gmask_token_id": 401, "bos_token_id": 404, "eos_token_id": 405}
    return VisualGLMConfig(
        hidden_size=4096 // scale,
        inner_hidden_size=16384 // scale,
        vision_config=vision,
        qformer_config=qformer,
        dtype="float16",
        **ids,
    )


def measure(
    config: VisualGLMConfig, parent: Path | None, tokens: int, plan: Any = None, limit: float | None = None
) -> dict[str, Any]:
    """Write, load, ask, and delete the folder.

    Raises:
        SystemExit: too little space on the disk or in memory.
    """
    shapes = expected_shapes(VisualGLMForConditionalGeneration, config)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    refuse_if_too_small(parent or Path(tempfile.gettempdir()), 2 * parameters, plan is not None)
    options = {} if plan is None else {"quantization_config": plan}
    with tempfile.TemporaryDirectory(dir=parent, prefix="visualglm-full-size-") as name:
        folder = Path(name)
        _, writing = timed(write_random, folder, config, shapes)
        estimate = estimate_memory(open_checkpoint(folder), torch.bfloat16, plan)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1e9), int(limit * 1e9)))
        opened = partial(VisualGLMForConditionalGeneration.from_pretrained, folder, dtype="bfloat16", **options)
        with peak_memory() as peak:
            model, loading = timed(opened)
        after = anonymous_memory()
        asked = ask(model, VisualGLMProcessor.for_config(model.config, VOCABULARY), tokens)
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    return {
        **origin(__file__),
        "parameters": parameters,
        "model_gb": round(size / 1e9, 2),
        "write_seconds": round(writing, 1),
        "load_seconds": round(loading, 1),
        "peak_anonymous_gb": round(peak[0] / 1e9, 2),
        "peak_over_model": round(peak[0] / size, 3),
        "estimated_weights_gb": round(estimate.weights / 1e9, 2),
        "estimated_peak_gb": round(estimate.loading / 1e9, 2),
        "limit_gb": limit,
        "quantization": None if plan is None else plan.modules,
        "anonymous_after_load_gb": round(after / 1e9, 2),
        **asked,
    }


def refuse_if_too_small(folder: Path, model_bytes: int, quantized: bool) -> None:
    """Exit unless disk and memory suffice.

    The disk needs the checkpoint and one temporary shard; memory needs the model (half of it, quantized) and 3 GB.
    """
    free, wanted = shutil.disk_usage(folder).free, model_bytes + MAX_SHARD_SIZE + 10**9
    if free < wanted:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free, {wanted / 1e9:.0f} GB are needed: give --folder.")
    available, wanted = free_memory(), int((0.6 if quantized else 1.1) * model_bytes) + 2 * 10**9
    if available is not None and available < wanted:
        raise SystemExit(f"{available / 1e9:.0f} GB of memory are available, {wanted / 1e9:.0f} GB are needed.")


def write_random(folder: Path, config: VisualGLMConfig, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write upstream's layout, each tensor created when written; the head is untied, so all 7.8B are loaded."""
    tensors = {name: random_tensor(index, name, shape) for index, (name, shape) in enumerate(shapes.items())}
    hugging_face.write(folder, Checkpoint(folder, "native", config, tensors, {}), MAX_SHARD_SIZE)


def random_tensor(seed: int, name: str, shape: tuple[int, ...]) -> LazyTensor:
    """Create a random tensor: norms are one, others are runs of one normal table at different offsets."""

    def read() -> Tensor:
        count = math.prod(shape)
        start = seed * 7919 % TABLE
        rounds = -(-(start + count) // TABLE)
        numbers = (table().repeat(rounds) if rounds > 1 else table())[start : start + count].clone().view(shape)
        return numbers + 1 if "layernorm.weight" in name or "ln_vision.weight" in name else numbers

    return LazyTensor(shape, torch.float16, read)


@cache
def table() -> Tensor:
    """Create the table, because drawing 7.8 billion numbers one by one takes minutes."""
    return (SPREAD * torch.randn(TABLE, generator=torch.Generator().manual_seed(0))).half()


@torch.inference_mode()
def ask(model: VisualGLMForConditionalGeneration, processor: VisualGLMProcessor, tokens: int) -> dict[str, Any]:
    """Ask one question about an image, greedily; the first pass is the prompt's, each later one a token's."""
    image = Image.linear_gradient("L").convert("RGB").resize((640, 480))
    inputs = processor(images=image, text=QUESTION, return_tensors="pt")
    pixel_values = inputs["pixel_values"].to(model.dtype)
    image_embeds, seeing = timed(model.encode_images, pixel_values)
    step, first = timed(model, inputs["input_ids"], image_embeds=image_embeds, logits_to_keep=1)
    seconds = []
    for _ in range(tokens):
        step, elapsed = timed(model, step.logits[:, -1:].argmax(-1), past_key_values=step.past_key_values)
        seconds.append(elapsed)
    return {
        "prompt_tokens": inputs["input_ids"].shape[1],
        "image_seconds": round(seeing, 2),
        "prompt_seconds": round(first, 2),
        "generated_tokens": tokens,
        "seconds_per_token": round(sorted(seconds)[len(seconds) // 2], 3),
    }


if __name__ == "__main__":
    main()
