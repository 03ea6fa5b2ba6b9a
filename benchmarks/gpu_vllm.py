"""The 6B's shapes with random weights in vLLM on a GPU, compared with a model of vLLM's own.

Run it in the environment of `make test-vllm VLLM=vllm TORCH=`: `python benchmarks/gpu_vllm.py`. Measures tokens per
second of 1 and of 64 streams in float16; vLLM creates the weights (`load_format="dummy"`), so nothing is downloaded.
The other model is a Llama of the 7B's shapes. Needs about 40 GB of GPU memory, one model after the other. Stores
`benchmarks/results/gpu_vllm.json`. Its figures are not quoted before it has been run.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import LlamaConfig
from vllm import LLM, SamplingParams

from visualglm.network.configuration import VisualGLMConfig
from visualglm.vllm_plugin.versions import installed_version

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu_vllm.json"
VOCABULARY = ROOT / "tests" / "reference" / "hf" / "ice_text.model"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    options = parser.parse_args()
    figures = {
        "command": "python " + " ".join(["benchmarks/gpu_vllm.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
        "versions": {"vllm": installed_version(), "torch": torch.__version__},
        "tokens": options.tokens,
        "visualglm-6b, a picture and a question": run(visualglm_folder, image_prompt, options),
        "llama 7b, a prompt of the same length": run(llama_folder, llama_prompt, options),
    }
    RESULT.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


def visualglm_folder(folder: Path) -> None:
    """Write the full configuration and a stand-in vocabulary."""
    VisualGLMConfig(architectures=["VisualGLMForConditionalGeneration"], dtype="float16").save_pretrained(folder)
    shutil.copyfile(VOCABULARY, folder / "ice_text.model")


def image_prompt(stream: int) -> Any:
    """Build a prompt with a different image for each stream, so that nothing is cached."""
    image = Image.new("RGB", (224, 224), (stream % 256, 80, 160))
    return {"prompt": "Describe the picture.", "multi_modal_data": {"image": image}}


def llama_folder(folder: Path) -> None:
    """Write vLLM's own model of similar size, with VisualGLM's vocabulary size and without a tokenizer."""
    LlamaConfig(architectures=["LlamaForCausalLM"], vocab_size=130528, dtype="float16").save_pretrained(folder)


def llama_prompt(stream: int) -> Any:
    """Build a prompt of as many tokens as the other's."""
    return {"prompt_token_ids": [1000 + stream] * 48}


def run(make_folder: Any, make_prompt: Any, options: argparse.Namespace) -> dict[str, float]:
    """Return tokens per second by number of streams."""
    sampling = SamplingParams(temperature=0, max_tokens=options.tokens, ignore_eos=True, detokenize=False)
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder))
        llm = LLM(
            folder,
            load_format="dummy",
            dtype="float16",
            max_model_len=2048,
            skip_tokenizer_init=make_prompt is llama_prompt,
            enable_prefix_caching=None if make_prompt is image_prompt else False,
            tensor_parallel_size=options.tensor_parallel_size,
        )
    found = {}
    for streams in options.streams:
        prompts = [make_prompt(stream) for stream in range(streams)]
        llm.generate(prompts[:1], sampling, use_tqdm=False)
        started = time.perf_counter()
        llm.generate(prompts, sampling, use_tqdm=False)
        found[f"tokens per second, {streams} streams"] = round(
            streams * options.tokens / (time.perf_counter() - started), 1
        )
    del llm
    gc.collect()
    return found


if __name__ == "__main__":
    main()
